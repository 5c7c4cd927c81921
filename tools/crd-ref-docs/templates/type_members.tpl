{{- define "type_members" -}}
{{- $field := . -}}
{{- if eq $field.Name "metadata" -}}
Standard object metadata.
{{- else -}}
{{ $field.Doc | replace "\n\n" "<br />" | replace "\n" " " | markdownRenderFieldDoc }}
{{- end -}}
{{- end -}}
