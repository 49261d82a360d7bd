{{/* Labels of every object. */}}
{{- define "knit-image-registry.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{ include "knit-image-registry.podLabels" . }}
{{- end }}

{{- define "knit-image-registry.podLabels" -}}
{{ include "knit-image-registry.selector" . }}
app.kubernetes.io/part-of: knit
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* What never changes, as a Deployment's selector must not. */}}
{{- define "knit-image-registry.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Values.component }}
{{- end }}

{{- define "knit-image-registry.image" -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}

{{- define "knit-image-registry.storageClass" -}}
{{- $storage := .Values.storage | default dict -}}
{{- .Values.storageClass | default (get ($storage.class | default dict) "system") -}}
{{- end }}

{{/* The Secret with the certificate; empty: plain HTTP. */}}
{{- define "knit-image-registry.tlsSecret" -}}
{{- $certs := .Values.certs | default dict -}}
{{- $handed := get ($certs.secret | default dict) "server" -}}
{{- if eq (toString (get $certs "enabled")) "false" -}}{{- $handed = "" -}}{{- end -}}
{{- .Values.tlsSecret | default $handed -}}
{{- end }}

{{- define "knit-image-registry.scheme" -}}
{{ if include "knit-image-registry.tlsSecret" . }}https{{ else }}http{{ end }}
{{- end }}

{{/* The registry's configuration; `readonly` for the time of garbage collection. */}}
{{- define "knit-image-registry.config" -}}
version: 0.1
log:
  level: info
  formatter: json
storage:
  filesystem:
    rootdirectory: /var/lib/registry
  delete:
    enabled: true
  maintenance:
    uploadpurging:
      enabled: true
      age: 24h
      interval: 6h
      dryrun: false
    readonly:
      enabled: {{ .readonly }}
{{- if .context.Values.accounts.htpasswdSecret }}
auth:
  htpasswd:
    realm: knit
    path: /etc/knit-accounts/htpasswd
{{- end }}
http:
  addr: 127.0.0.1:5000
  # A little less than the pod has, so that it ends by itself.
  draintimeout: {{ sub (.context.Values.terminationGracePeriodSeconds | int64) 5 | max 1 }}s
{{- end }}

{{/* Labels of what `helm test` makes; no Service selects it. */}}
{{- define "knit-image-registry.testLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: knit
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
