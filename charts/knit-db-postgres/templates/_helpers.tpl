{{/* Labels of every object. */}}
{{- define "knit-db-postgres.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{ include "knit-db-postgres.podLabels" . }}
{{- end }}

{{/* Labels of the pod: those that select it, and those by which NetworkPolicies know knit. */}}
{{- define "knit-db-postgres.podLabels" -}}
{{ include "knit-db-postgres.selector" . }}
app.kubernetes.io/part-of: knit
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* What never changes, as a Deployment's selector must not. */}}
{{- define "knit-db-postgres.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Values.component }}
{{- end }}

{{- define "knit-db-postgres.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end -}}
{{- end }}

{{- define "knit-db-postgres.storageClass" -}}
{{- $storage := .Values.storage | default dict -}}
{{- .Values.storageClass | default (get ($storage.class | default dict) "system") -}}
{{- end }}

{{/* The roles that have a Secret: a dict of the folder's name to the credential. */}}
{{- define "knit-db-postgres.credentials" -}}
{{- $all := dict "owner" .Values.credential "application" .Values.appCredential -}}
{{- if .Values.temporal.enabled }}{{ $_ := set $all "temporal" .Values.temporal.credential }}{{ end -}}
{{- toJson $all -}}
{{- end }}

{{/* A Secret's password as it is in the cluster, else a new one of 190 bits; base64. */}}
{{- define "knit-db-postgres.password" -}}
{{- $there := lookup "v1" "Secret" .namespace .secret -}}
{{- $kept := get ((default dict $there).data | default dict) "password" -}}
{{- $kept | default (randAlphaNum 32 | b64enc) -}}
{{- end }}

{{/* Labels of what `helm test` makes; no Service selects it. */}}
{{- define "knit-db-postgres.testLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: knit
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
