{{- define "knit-certs.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/component: certs
app.kubernetes.io/part-of: knit
{{- end }}

{{/* Every name of the server's certificate, as a JSON list; the API's and the registry's Services among them. */}}
{{- define "knit-certs.names" -}}
{{- $names := list "localhost" }}
{{- range $service := list "knit-api" "image-registry" }}
{{- $names = concat $names (list $service (printf "%s.%s" $service $.Release.Namespace) (printf "%s.%s.svc" $service $.Release.Namespace)) }}
{{- end }}
{{- concat $names (.Values.san.names | default list) | uniq | toJson }}
{{- end }}

{{- define "knit-certs.ips" -}}
{{- concat (list "127.0.0.1") (.Values.san.ips | default list) | uniq | toJson }}
{{- end }}

{{/* Refuses halves: a certificate without its key serves nobody. */}}
{{- define "knit-certs.check" -}}
{{- $v := .Values }}
{{- if and $v.cert (not $v.key) }}{{ fail "knit-certs: cert is given without key: give both, or neither to have them made" }}{{ end }}
{{- if and $v.key (not $v.cert) }}{{ fail "knit-certs: key is given without cert: give both, or neither to have them made" }}{{ end }}
{{- if and $v.cakey (not $v.cacert) }}{{ fail "knit-certs: cakey is given without cacert: give both, or neither to have them made" }}{{ end }}
{{- if and $v.cacert (not $v.cakey) (not $v.cert) }}{{ fail "knit-certs: cacert is given without cakey: nothing could be signed; give cakey too, or cert and key" }}{{ end }}
{{- if and $v.external (or $v.cert $v.cacert) }}{{ fail "knit-certs: external says that the Secrets exist, but certificates are given too: choose one" }}{{ end }}
{{- end }}
