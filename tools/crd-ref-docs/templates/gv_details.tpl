{{- define "gvDetails" -}}
{{- $gv := . -}}
API group and version: `{{ $gv.GroupVersionString }}`.
`kubectl explain KIND.FIELD` shows the same text. [Concepts](../concepts.md) tells how the kinds work together.

Kinds:
{{ range $gv.SortedKinds }}
- {{ $gv.TypeForKind . | markdownRenderTypeLink }}
{{- end }}

{{ range $gv.SortedKinds }}{{ template "type" ($gv.TypeForKind .) }}{{ end -}}
## Types

{{ range $gv.SortedTypes }}{{ if not .GVK }}{{ template "type" . }}{{ end }}{{ end -}}
{{- end -}}
