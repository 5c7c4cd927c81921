{{- define "gvList" -}}
<!-- Generated from the comments in api/v1alpha1 by "make generate". Do not edit. -->

# Resource reference

{{ range . }}{{ template "gvDetails" . }}{{ end -}}
{{- end -}}
