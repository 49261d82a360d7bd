{{/* What no schema says in words that help; asked by whoever reads `database`. */}}
{{- define "knit-temporal.checks" -}}
{{- $database := .Values.database | default dict -}}
{{- if not (and (get $database "service") (get $database "port")) -}}
  {{- fail "database is missing: hand over the values of knit-db-postgres, --set-json \"database=$(helm get values knit-db-postgres -o json --all)\"" -}}
{{- end -}}
{{- if not (dig "temporal" "enabled" false $database) -}}
  {{- fail "The database knows nothing of Temporal: helm upgrade knit-db-postgres … --reuse-values --set temporal.enabled=true, and hand its values over again." -}}
{{- end -}}
{{- end }}
