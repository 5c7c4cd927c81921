{{- define "hub.name" -}}
{{- if contains "hub" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-hub" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "hub.selector" -}}
app.kubernetes.io/name: sealane-hub
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hub.labels" -}}
{{ include "hub.selector" . }}
app.kubernetes.io/part-of: sealane
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "hub.secret" -}}
{{- .Values.authority.secretName | default (printf "%s-authority" (include "hub.name" .)) -}}
{{- end -}}

{{- define "hub.state" -}}
{{- printf "%s-state" (include "hub.name" .) -}}
{{- end -}}

{{- define "hub.advertise" -}}
{{- if .Values.advertise -}}
{{- .Values.advertise -}}
{{- else if or (ne .Values.service.type "ClusterIP") .Values.tlsRoute.enabled -}}
{{- fail (printf "advertise: say as HOST:PORT what agents dial. With service.type %s%s the chart cannot know it; reserve the name or address first." .Values.service.type (ternary " and tlsRoute" "" .Values.tlsRoute.enabled)) -}}
{{- else -}}
{{- printf "%s.%s.svc:%d" (include "hub.name" .) .Release.Namespace (int .Values.service.port) -}}
{{- end -}}
{{- end -}}

{{- define "hub.host" -}}
{{- regexReplaceAll ":[0-9]+$" (include "hub.advertise" .) "" -}}
{{- end -}}
