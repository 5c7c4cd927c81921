{{- define "agent.name" -}}
{{- if contains "agent" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-agent" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "agent.selector" -}}
app.kubernetes.io/name: sealane-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "agent.labels" -}}
{{ include "agent.selector" . }}
app.kubernetes.io/part-of: sealane
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "agent.broker" -}}
app.kubernetes.io/name: sealane-broker
app.kubernetes.io/managed-by: sealane-agent
{{- end -}}

{{- define "agent.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end -}}

{{- define "agent.tokenSecret" -}}
{{- .Values.tokenSecret.name | default (printf "%s-token" (include "agent.name" .)) -}}
{{- end -}}

{{/* The Secret that names the proxy; nothing if there is none. */}}
{{- define "agent.proxySecret" -}}
{{- with .Values.proxy -}}
{{- if .url -}}
{{- printf "%s-proxy" (include "agent.name" $) -}}
{{- else -}}
{{- (.secret).name -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What is reached without the proxy. The agent tells its pods which link goes through it. */}}
{{- define "agent.noProxy" -}}
{{- $inside := list "$(KUBERNETES_SERVICE_HOST)" ".svc" (printf ".%s" .Values.clusterDomain) -}}
{{- concat $inside (.Values.proxy.noProxy | default list) | join "," -}}
{{- end -}}

{{- define "agent.check" -}}
{{- if not .Values.name -}}
{{- fail "name: every member needs a name of its own in the federation, such as --set name=berlin" -}}
{{- end -}}
{{- if not .Values.hub -}}
{{- fail "hub: say as HOST:PORT where the hub is; \"helm status\" of the hub's release shows it" -}}
{{- end -}}
{{- if and .Values.token .Values.tokenSecret.name -}}
{{- fail "token and tokenSecret.name exclude each other: give the join token as a value or in a Secret of yours" -}}
{{- end -}}
{{- if and .Release.IsInstall (not .Values.token) (not .Values.tokenSecret.name) -}}
{{- fail "token: the first start of a member needs a join token: on the hub, \"sealane token create --cluster NAME -o token\"; give it as token, or in a Secret as tokenSecret.name" -}}
{{- end -}}
{{- with .Values.proxy -}}
{{- if and .url (.secret).name -}}
{{- fail "proxy.url and proxy.secret.name exclude each other: give the proxy as a value or in a Secret of yours" -}}
{{- end -}}
{{- end -}}
{{- $links := .Values.broker.linkService -}}
{{- if and .Values.advertise (not $links.enabled) -}}
{{- fail "advertise: nothing accepts links, because broker.linkService.enabled is false" -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (not .Values.metrics.enabled) -}}
{{- fail "serviceMonitor: there are no metrics, because metrics.enabled is false" -}}
{{- end -}}
{{- end -}}
