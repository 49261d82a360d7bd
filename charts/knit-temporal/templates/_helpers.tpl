{{/* Labels of every object. */}}
{{- define "knit-temporal.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{ include "knit-temporal.podLabels" . }}
{{- end }}

{{/* Labels of the pod: those that select it, and those by which the database knows its clients. */}}
{{- define "knit-temporal.podLabels" -}}
{{ include "knit-temporal.selector" . }}
app.kubernetes.io/part-of: knit
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* What never changes, as a Deployment's selector must not. */}}
{{- define "knit-temporal.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Values.component }}
{{- end }}

{{- define "knit-temporal.image" -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}

{{- define "knit-temporal.credentialSecret" -}}
{{- include "knit-temporal.checks" . -}}
{{- .Values.database.temporal.credential.secret -}}
{{- end }}

{{/* SQL of one of the two stores of the server. */}}
{{- define "knit-temporal.sql" -}}
sql:
  pluginName: postgres12
  databaseName: {{ .name }}
  connectAddr: {{ printf "%s:%d" .root.Values.database.service (.root.Values.database.port | int64) | quote }}
  connectProtocol: tcp
  user: {{ `{{ env "KNIT_SQL_USER" | quote }}` }}
  password: {{ `{{ env "KNIT_SQL_PASSWORD" | quote }}` }}
  maxConns: {{ .root.Values.maxConnections | int64 }}
  maxIdleConns: {{ .root.Values.maxConnections | int64 }}
  maxConnLifetime: 1h
{{- end }}

{{/* Environment of the schema tool for one database. */}}
{{- define "knit-temporal.credentialEnv" -}}
- name: {{ .user }}
  valueFrom:
    secretKeyRef:
      name: {{ include "knit-temporal.credentialSecret" .root }}
      key: username
- name: {{ .password }}
  valueFrom:
    secretKeyRef:
      name: {{ include "knit-temporal.credentialSecret" .root }}
      key: password
{{- end }}

{{/* Labels of what `helm test` makes; no Service selects it. */}}
{{- define "knit-temporal.testLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: knit
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
