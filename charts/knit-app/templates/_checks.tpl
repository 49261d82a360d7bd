{{/* What no schema says in words that help. Rendered first, by settings.yaml. */}}
{{- define "knit-app.checks" -}}
{{- $v := .Values -}}
{{- $retired := dict
  "knitd" "api (its NodePort is api.service.nodePort)"
  "knitd_backend" "nothing: the API needs no second process"
  "loops" "workers (replicas per role)"
  "vex" "expander (enabled, margin, delta)"
  "worker" "runs.priorityClass"
  "nurse" "podImage"
  "empty" "podImage"
  "dataagt" "podImage"
  "schemaUpgrader" "nothing: a Job of this chart migrates the database"
  "keychains" "nothing: keys of imports are in the database"
  "clusterTLD" "nothing: names inside the cluster are short ones"
  "extraApis" "extraApi (endpoints)"
  "imagePullSecret" "imagePullSecrets, a list of {name: SECRET}"
-}}
{{- range $key, $instead := $retired }}
{{-   if get $v $key }}{{ fail (printf "knit-app: %s is a value of Knitfab's charts; knit has %s" $key $instead) }}{{ end }}
{{- end -}}
{{- range $key := list "key" "cakey" }}
{{-   if get ($v.certs | default dict) $key }}
{{-     fail (printf "knit-app: certs.%s is a private key, which would be kept in this release too: leave it out when you hand values over (certs.secret.server names the Secret that has it), or use knit-certs with external=true" $key) }}
{{-   end }}
{{- end -}}
{{- $db := $v.database | default dict -}}
{{- range $credential := list "credential" "appCredential" }}
{{-   if get (get $db $credential | default dict) "password" }}
{{-     fail (printf "knit-app: database.%s.password is a password, which would be kept in this release too: leave it out, database.%s.secret names the Secret that has it" $credential $credential) }}
{{-   end }}
{{- end -}}
{{- if not $v.temporal.address }}
{{-   fail "knit-app: temporal.address is missing: say where Temporal's frontend is, HOST:PORT, such as temporal-frontend.temporal:7233; for trials the chart knit-temporal installs one" }}
{{- end -}}
{{- if not $db.service }}{{ fail "knit-app: database.service is missing: the host of PostgreSQL" }}{{ end -}}
{{- if not ($db.credential | default dict).secret }}{{ fail "knit-app: database.credential.secret is missing: the Secret with the database's username and password" }}{{ end -}}
{{- if and (include "knit-app.tls" .) (not (($v.certs.secret | default dict).server)) }}
{{-   fail "knit-app: certs.secret.server is missing: name a Secret of type kubernetes.io/tls, or set certs.enabled to false behind something that ends TLS" }}
{{- end -}}
{{- if and $v.runs.priorityClass.create (not $v.runs.priorityClass.name) }}
{{-   fail "knit-app: runs.priorityClass.create needs runs.priorityClass.name" }}
{{- end -}}
{{- if and $v.metrics.podMonitor.enabled (not $v.metrics.enabled) }}
{{-   fail "knit-app: metrics.podMonitor.enabled needs metrics.enabled, or there is nothing to scrape" }}
{{- end -}}
{{- if and $v.metrics.dashboard.enabled (not $v.metrics.enabled) }}
{{-   fail "knit-app: metrics.dashboard.enabled needs metrics.enabled, or there is nothing to show" }}
{{- end -}}
{{- if and (or $v.accounts.oidc.roles $v.accounts.oidc.clientId) (not $v.accounts.oidc.issuer) }}
{{-   fail "knit-app: accounts.oidc.issuer is missing: the URL of the provider whose groups and client these are" }}
{{- end -}}
{{- $versioning := $v.workers.versioning -}}
{{- range $key := list "KNIT_VERSIONING__BUILD_ID" "KNIT_VERSIONING__DRAINING" }}
{{-   if hasKey ($v.settings | default dict) $key }}
{{-     fail (printf "knit-app: settings.%s would be that of every process: set workers.versioning (enabled, draining)" $key) }}
{{-   end }}
{{- end -}}
{{- $builds := dict -}}
{{- $suffixes := dict -}}
{{- range $version := include "knit-app.workerVersions" . | fromJsonArray }}
{{-   if and $version.draining (hasKey $builds $version.build) }}
{{-     fail (printf "knit-app: workers.versioning.draining has %s, which is %s: leave it out" $version.build (get $builds $version.build)) }}
{{-   end }}
{{-   if eq $version.suffix "-" }}
{{-     fail (printf "knit-app: workers.versioning.draining has %s, of which no name can be made: give that image another tag" $version.build) }}
{{-   end }}
{{-   if hasKey $suffixes $version.suffix }}
{{-     fail (printf "knit-app: workers.versioning.draining has %s and %s, whose Deployments would have one name (…%s): give one image another tag" (get $suffixes $version.suffix) $version.build $version.suffix) }}
{{-   end }}
{{-   $_ := set $builds $version.build (ternary "there already" "the version that is installed" $version.draining) }}
{{-   $_ := set $suffixes $version.suffix $version.build }}
{{- end -}}
{{- end }}
