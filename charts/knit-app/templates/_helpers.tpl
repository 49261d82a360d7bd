{{/* Names are fixed: other parts, and people, find them by these. One installation per namespace. */}}

{{- define "knit-app.selector" -}}
app.kubernetes.io/name: knit-app
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "knit-app.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .version | default .root.Chart.AppVersion | quote }}
{{ include "knit-app.podLabels" . }}
{{- end }}

{{/* The last two are those by which NetworkPolicies of other charts know knit. */}}
{{- define "knit-app.podLabels" -}}
{{ include "knit-app.selector" . }}
app.kubernetes.io/part-of: knit
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "knit-app.image" -}}
{{- $repository := .image.repository -}}
{{- with .root.Values.imageRepository }}{{ $repository = printf "%s/%s" (trimSuffix "/" .) $repository }}{{ end -}}
{{- if .image.digest -}}
{{ $repository }}@{{ .image.digest }}
{{- else -}}
{{ $repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The version of workers of an image: its tag, or the beginning of its digest. */}}
{{- define "knit-app.build" -}}
{{- if .image.digest -}}
{{ .image.digest | trimPrefix "sha256:" | trunc 12 }}
{{- else -}}
{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/*
The versions of the workers as a JSON list, the installed one first. `suffix`: what names and components of
those that drain end with, so that no selector finds pods of two; `build` is empty without versioning.
*/}}
{{- define "knit-app.workerVersions" -}}
{{- $v := .Values.workers.versioning -}}
{{- $build := include "knit-app.build" (dict "root" . "image" .Values.image) -}}
{{- $found := list (dict "image" .Values.image "build" (ternary $build "" $v.enabled) "suffix" "" "draining" false) -}}
{{- range $tag := $v.draining }}
{{-   $image := dict "repository" $.Values.image.repository "tag" $tag }}
{{-   if hasPrefix "sha256:" $tag }}{{ $image = dict "repository" $.Values.image.repository "digest" $tag }}{{ end }}
{{-   $build := include "knit-app.build" (dict "root" $ "image" $image) }}
{{-   $suffix := include "knit-app.fit" $build }}
{{-   $found = append $found (dict "image" $image "build" $build "suffix" (printf "-%s" $suffix) "draining" true) }}
{{- end -}}
{{ toJson $found }}
{{- end }}

{{/* A tag as the end of a name, which with that of a role has to fit into a label. */}}
{{- define "knit-app.fit" -}}
{{ lower . | replace "." "-" | replace "_" "-" | trimAll "-" | trunc 30 | trimSuffix "-" }}
{{- end }}

{{/* The components of all workers but the expander and that of backups, as a JSON list. */}}
{{- define "knit-app.workerComponents" -}}
{{- $found := list -}}
{{- range $version := include "knit-app.workerVersions" . | fromJsonArray }}
{{-   range $role := list "engine" "compute" "watch" "interactive" "hooks" }}
{{-     $found = append $found (printf "worker-%s%s" $role $version.suffix) }}
{{-   end }}
{{- end -}}
{{ toJson $found }}
{{- end }}

{{/* Of which version a worker is, if workers have versions. */}}
{{- define "knit-app.versionEnv" -}}
{{- with .build }}
- name: KNIT_VERSIONING__BUILD_ID
  value: {{ . | quote }}
{{- end }}
{{- if .draining }}
- {name: KNIT_VERSIONING__DRAINING, value: "true"}
{{- end }}
{{- end }}

{{- define "knit-app.tls" -}}
{{- if (.Values.certs | default dict).enabled }}yes{{ end -}}
{{- end }}

{{- define "knit-app.storageClass" -}}
{{- $class := (.Values.storage | default dict).class | default dict -}}
{{- $class.data | default "" -}}
{{- end }}

{{- define "knit-app.bootstrapSecret" -}}
{{- .Values.accounts.bootstrapToken.existingSecret | default "knit-bootstrap-token" -}}
{{- end }}

{{/* The address of the database; who connects is in the environment. */}}
{{- define "knit-app.databaseUrl" -}}
{{- $db := .Values.database -}}
{{- $host := $db.service -}}
{{- if contains ":" $host }}{{ $host = printf "[%s]" $host }}{{ end -}}
postgresql://{{ $host }}:{{ $db.port | default 5432 | int64 }}/{{ $db.databaseName | default "knit" }}
{{- $query := list -}}
{{- with $db.sslMode }}{{ $query = append $query (printf "sslmode=%s" .) }}{{ end -}}
{{- if $db.caSecret }}{{ $query = append $query "sslrootcert=/etc/knit/database/ca.crt" }}{{ end -}}
{{- if $query }}?{{ join "&" $query }}{{ end -}}
{{- end }}

{{/* Who connects to the database: `owner` or the application. */}}
{{- define "knit-app.databaseUser" -}}
{{- $db := .root.Values.database -}}
{{- $secret := ($db.appCredential | default dict).secret | default $db.credential.secret -}}
{{- if .owner }}{{ $secret = $db.credential.secret }}{{ end -}}
- name: PGUSER
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: username}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: password}
{{- end }}

{{/* The environment of every process that speaks to Temporal. */}}
{{- define "knit-app.temporalEnv" -}}
{{- $t := .Values.temporal -}}
- name: TEMPORAL_ADDRESS
  value: {{ $t.address | quote }}
- name: TEMPORAL_NAMESPACE
  value: {{ $t.namespace | quote }}
{{- if or $t.tls.enabled $t.tls.clientSecret $t.tls.caSecret }}
- name: TEMPORAL_TLS
  value: "true"
{{- end }}
{{- with $t.tls.serverName }}
- name: TEMPORAL_TLS_SERVER_NAME
  value: {{ . | quote }}
{{- end }}
{{- if $t.tls.caSecret }}
- name: TEMPORAL_TLS_SERVER_CA_CERT_PATH
  value: /etc/knit/temporal-ca/ca.crt
{{- end }}
{{- if $t.tls.clientSecret }}
- name: TEMPORAL_TLS_CLIENT_CERT_PATH
  value: /etc/knit/temporal-client/tls.crt
- name: TEMPORAL_TLS_CLIENT_KEY_PATH
  value: /etc/knit/temporal-client/tls.key
{{- end }}
{{- with $t.apiKey.secret }}
- name: TEMPORAL_API_KEY
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: {{ $t.apiKey.key }}}
{{- end }}
{{- end }}

{{/* Files of database and Temporal, for the same processes: volumes, then their mounts. */}}
{{- define "knit-app.sharedVolumes" -}}
- name: tmp
  emptyDir: {}
{{- with .Values.database.caSecret }}
- name: database-ca
  secret:
    secretName: {{ . }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- with .Values.temporal.tls.caSecret }}
- name: temporal-ca
  secret:
    secretName: {{ . }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- with .Values.temporal.tls.clientSecret }}
- name: temporal-client
  secret: {secretName: {{ . }}}
{{- end }}
{{- end }}

{{- define "knit-app.sharedMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.database.caSecret }}
- {name: database-ca, mountPath: /etc/knit/database, readOnly: true}
{{- end }}
{{- if .Values.temporal.tls.caSecret }}
- {name: temporal-ca, mountPath: /etc/knit/temporal-ca, readOnly: true}
{{- end }}
{{- if .Values.temporal.tls.clientSecret }}
- {name: temporal-client, mountPath: /etc/knit/temporal-client, readOnly: true}
{{- end }}
{{- end }}

{{/* Settings from the ConfigMap, and headers for Temporal from their Secret. */}}
{{- define "knit-app.envFrom" -}}
- configMapRef: {name: knit-settings}
{{- with .Values.temporal.headersSecret }}
- secretRef: {name: {{ . }}}
  prefix: TEMPORAL_GRPC_META_
{{- end }}
{{- end }}

{{/* What only API and workers have of traces: Jobs read the same ConfigMap, and trace nothing. */}}
{{- define "knit-app.tracesEnv" -}}
{{- if and .Values.traces.endpoint .Values.traces.headersSecret }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom:
    secretKeyRef: {name: {{ .Values.traces.headersSecret }}, key: headers}
{{- end }}
{{- end }}

{{- define "knit-app.metricsArgument" -}}
{{- if .Values.metrics.enabled }}
- --metrics-address=:{{ .Values.metrics.port | int64 }}
{{- end }}
{{- end }}

{{- define "knit-app.metricsPort" -}}
{{- if .Values.metrics.enabled }}
- {name: metrics, containerPort: {{ .Values.metrics.port | int64 }}}
{{- end }}
{{- end }}

{{/* Whom a NetworkPolicy lets in for metrics: a list, which may be empty. */}}
{{- define "knit-app.metricsIngress" -}}
{{- if .Values.metrics.enabled }}
- ports: [{port: metrics}]
  from:
    {{- toYaml (.Values.networkPolicy.metricsFrom | default (list (dict "namespaceSelector" dict))) | nindent 4 }}
{{- end }}
{{- end }}

{{/*
glibc keeps what has been freed: in up to eight heaps per core, each for some threads, and up to a limit
that it raises by itself. Workers give some MiB each back with these two. The API has the first only: with
the second, every buffer of a transfer would be mapped anew.
*/}}
{{- define "knit-app.memoryEnv" -}}
- {name: MALLOC_ARENA_MAX, value: "2"}
- {name: MALLOC_TRIM_THRESHOLD_, value: "131072"}
{{- end }}

{{- define "knit-app.podSecurity" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "knit-app.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where pods go, and what they are pulled with. */}}
{{- define "knit-app.placement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "knit-app.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "knit-app.selector" . | nindent 8 }}
{{- end }}

{{/* A changed ConfigMap or token restarts the pods that read it. */}}
{{- define "knit-app.podAnnotations" -}}
checksum/settings: {{ include "knit-app.settings" .root | sha256sum }}
{{- with .root.Values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}
