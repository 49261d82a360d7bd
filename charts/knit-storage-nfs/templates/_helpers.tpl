{{/* Labels of every object. */}}
{{- define "storage.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: knit
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "storage.selector" . }}
{{- end }}

{{/* What never changes, as a Deployment's selector must not. */}}
{{- define "storage.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Values.component }}
{{- end }}

{{- define "storage.image" -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}

{{- define "storage.isNfs" -}}
{{ if eq .Values.provisioner "nfs.csi.k8s.io" }}true{{ end }}
{{- end }}

{{/* Whether the NFS server is ours to start. */}}
{{- define "storage.hasServer" -}}
{{ if and (include "storage.isNfs" .) (not .Values.nfs.external) }}true{{ end }}
{{- end }}

{{/* The server as the nodes' driver finds it, which may be in another namespace. */}}
{{- define "storage.server" -}}
{{ .Values.nfs.server }}{{ if not .Values.nfs.external }}.{{ .Release.Namespace }}.svc{{ end }}
{{- end }}

{{/* The parameters of the class whose folders are below `folder`, as JSON. */}}
{{- define "storage.parameters" -}}
{{- $root := .root -}}
{{- $parameters := dict -}}
{{- if include "storage.isNfs" $root -}}
  {{- $parameters = dict
    "server" (include "storage.server" $root)
    "share" $root.Values.nfs.share
    "subDir" (printf "%s/${pvc.metadata.namespace}/${pvc.metadata.name}.d" .folder)
    "mountPermissions" "0777"
    "csi.storage.k8s.io/provisioner-secret-name" (printf "%s-mount-options" $root.Values.component)
    "csi.storage.k8s.io/provisioner-secret-namespace" $root.Release.Namespace
  -}}
{{- end -}}
{{- toJson (mergeOverwrite $parameters (deepCopy $root.Values.parameters)) -}}
{{- end }}
