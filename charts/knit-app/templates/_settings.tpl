{{/* The KNIT_ variables of API and workers, and those of traces, as a mapping in YAML; `settings` wins. */}}
{{- define "knit-app.settings" -}}
{{- $v := .Values -}}
{{- $all := dict
  "KNIT_LOG_FORMAT" "json"
  "KNIT_LOG_LEVEL" $v.logLevel
  "KNIT_STORE__URL" (include "knit-app.databaseUrl" .)
  "KNIT_COMPUTE__KIND" "kubernetes"
  "KNIT_COMPUTE__KUBERNETES__KUBE_NAMESPACE" .Release.Namespace
  "KNIT_COMPUTE__KUBERNETES__INITIAL_CAPACITY" ($v.runs.initialCapacity | toString)
  "KNIT_COMPUTE__KUBERNETES__ACCESS_MODE" $v.runs.accessMode
  "KNIT_COMPUTE__KUBERNETES__POD_IMAGE" (include "knit-app.image" (dict "root" . "image" $v.podImage))
  "KNIT_COMPUTE__KUBERNETES__POD_IMAGE_PULL_POLICY" $v.image.pullPolicy
  "KNIT_COMPUTE__KUBERNETES__RESTRICTED" ($v.runs.restricted | toString)
  "KNIT_COMPUTE__KUBERNETES__RUN_AS_USER" ($v.runs.runAsUser | int64 | toString)
  "KNIT_HOOKS__FILE" "/etc/knit/hooks/hooks.yaml"
  "KNIT_EXTRA_APIS__CONFIG" "/etc/knit/extra-apis/extra-apis.yaml"
  "KNIT_ACCOUNTS__REQUESTS_PER_MINUTE" ($v.accounts.requestsPerMinute | int64 | toString)
-}}
{{- with $v.accounts.publicUrl }}{{ $_ := set $all "KNIT_ACCOUNTS__PUBLIC_URL" . }}{{ end -}}
{{- with $v.accounts.trustedProxies }}{{ $_ := set $all "KNIT_ACCOUNTS__TRUSTED_PROXIES" (toJson .) }}{{ end -}}
{{- with include "knit-app.storageClass" . }}{{ $_ := set $all "KNIT_COMPUTE__KUBERNETES__STORAGE_CLASS" . }}{{ end -}}
{{- with $v.runs.priorityClass.name }}{{ $_ := set $all "KNIT_COMPUTE__KUBERNETES__PRIORITY_CLASS" . }}{{ end -}}
{{- with $v.runs.pods }}{{ $_ := set $all "KNIT_COMPUTE__KUBERNETES__RUN_PODS" (toJson .) }}{{ end -}}
{{- if kindIs "slice" $v.runs.planPodKeys }}{{ $_ := set $all "KNIT_COMPUTE__KUBERNETES__PLAN_POD_KEYS" (toJson $v.runs.planPodKeys) }}{{ end -}}
{{- with $v.runs.ephemeralStorage }}{{ $_ := set $all "KNIT_COMPUTE__KUBERNETES__EPHEMERAL_STORAGE" (toString .) }}{{ end -}}
{{- if $v.expander.enabled }}
{{-   $_ := set $all "KNIT_COMPUTE__KUBERNETES__EXPANDER_MARGIN" ($v.expander.margin | toString) }}
{{-   $_ := set $all "KNIT_COMPUTE__KUBERNETES__EXPANDER_DELTA" ($v.expander.delta | toString) }}
{{-   with $v.expander.most }}{{ $_ := set $all "KNIT_COMPUTE__KUBERNETES__EXPANDER_MOST" (toString .) }}{{ end }}
{{- end -}}
{{- with $v.runs.maxActive }}{{ $_ := set $all "KNIT_ENGINE__MAX_ACTIVE_RUNS" (int64 . | toString) }}{{ end -}}
{{- range $pods, $prefix := dict "containers" "PROGRAM" "logReaders" "LOG_READER" "transfers" "TRANSFER" }}
{{-   range $kind := list "requests" "limits" }}
{{-     $quantities := dict }}
{{-     range $name, $quantity := get (get $v.runs $pods) $kind }}{{ if $quantity }}{{ $_ := set $quantities $name (toString $quantity) }}{{ end }}{{ end }}
{{-     $_ := set $all (printf "KNIT_COMPUTE__KUBERNETES__%s_%s" $prefix (upper $kind)) (toJson $quantities) }}
{{-   end }}
{{- end -}}
{{- with $v.imagePullSecrets }}
{{-   $names := list }}
{{-   range . }}{{ $names = append $names .name }}{{ end }}
{{-   $_ := set $all "KNIT_COMPUTE__KUBERNETES__IMAGE_PULL_SECRETS" (toJson $names) }}
{{- end -}}
{{- if $v.hooksSecret }}{{ $_ := set $all "KNIT_HOOKS__SECRETS_FILE" "/etc/knit/hooks-secrets/secrets" }}{{ end -}}
{{- if $v.hooksCaConfigMap }}{{ $_ := set $all "KNIT_HOOKS__CA_FILE" "/etc/knit/hooks-ca/ca.crt" }}{{ end -}}
{{- $oidc := $v.accounts.oidc -}}
{{- if $oidc.issuer }}
{{-   $_ := set $all "KNIT_ACCOUNTS__OIDC_ISSUER" $oidc.issuer }}
{{-   $_ := set $all "KNIT_ACCOUNTS__OIDC_NAME_CLAIM" $oidc.nameClaim }}
{{-   $_ := set $all "KNIT_ACCOUNTS__OIDC_GROUPS_CLAIM" $oidc.groupsClaim }}
{{-   $_ := set $all "KNIT_ACCOUNTS__OIDC_ROLES" ($oidc.roles | default dict | toJson) }}
{{-   $_ := set $all "KNIT_ACCOUNTS__OIDC_PROJECTS" ($oidc.projects | default dict | toJson) }}
{{-   with $oidc.audience }}{{ $_ := set $all "KNIT_ACCOUNTS__OIDC_AUDIENCE" . }}{{ end }}
{{-   with $oidc.clientId }}{{ $_ := set $all "KNIT_ACCOUNTS__OIDC_CLIENT_ID" . }}{{ end }}
{{-   if $oidc.caConfigMap }}{{ $_ := set $all "KNIT_ACCOUNTS__OIDC_CA_FILE" "/etc/knit/oidc-ca/ca.crt" }}{{ end }}
{{- end -}}
{{- with $v.traces.endpoint }}
{{-   $_ := set $all "OTEL_EXPORTER_OTLP_ENDPOINT" . }}
{{-   $_ := set $all "OTEL_TRACES_SAMPLER" "parentbased_traceidratio" }}
{{-   $_ := set $all "OTEL_TRACES_SAMPLER_ARG" ($v.traces.ratio | toString) }}
{{-   $attributes := list (printf "k8s.namespace.name=%s" $.Release.Namespace) }}
{{-   range $name, $value := $v.traces.attributes }}{{ $attributes = append $attributes (printf "%s=%s" $name $value) }}{{ end }}
{{-   $_ := set $all "OTEL_RESOURCE_ATTRIBUTES" (join "," $attributes) }}
{{- end -}}
{{- range $name, $value := $v.settings }}
{{-   if kindIs "float64" $value }}{{ $value = printf "%v" (ternary (int64 $value) $value (eq (float64 (int64 $value)) $value)) }}{{ end }}
{{-   $_ := set $all $name (toString $value) }}
{{- end -}}
{{ toYaml $all }}
{{- end }}
