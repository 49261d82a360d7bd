{{/* Labels of every object. */}}
{{- define "knit-storage-nfs.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: knit
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "knit-storage-nfs.selector" . }}
{{- end }}

{{/* What never changes, as a Deployment's selector must not. */}}
{{- define "knit-storage-nfs.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Values.component }}
{{- end }}

{{- define "knit-storage-nfs.image" -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}

{{- define "knit-storage-nfs.isNfs" -}}
{{ if eq .Values.provisioner "nfs.csi.k8s.io" }}true{{ end }}
{{- end }}

{{/* Whether the NFS server is ours to start. */}}
{{- define "knit-storage-nfs.hasServer" -}}
{{ if and (include "knit-storage-nfs.isNfs" .) (not .Values.nfs.external) }}true{{ end }}
{{- end }}

{{/* The server as the nodes' driver finds it, which may be in another namespace. */}}
{{- define "knit-storage-nfs.server" -}}
{{ .Values.nfs.server }}{{ if not .Values.nfs.external }}.{{ .Release.Namespace }}.svc{{ end }}
{{- end }}

{{/*
The parameters of the class whose folders begin with `folder`, as JSON. A folder is of one part: releases of
csi-driver-nfs about 4.10 delete all that is below the first one (kubernetes-csi/csi-driver-nfs#855). No name
in Kubernetes has an underscore, so no two claims share a folder.
*/}}
{{- define "knit-storage-nfs.parameters" -}}
{{- $root := .root -}}
{{- $parameters := dict -}}
{{- if include "knit-storage-nfs.isNfs" $root -}}
  {{- $parameters = dict
    "server" (include "knit-storage-nfs.server" $root)
    "share" $root.Values.nfs.share
    "subDir" (printf "%s_${pvc.metadata.namespace}_${pvc.metadata.name}.d" .folder)
    "mountPermissions" "0777"
    "csi.storage.k8s.io/provisioner-secret-name" (printf "%s-mount-options" $root.Values.component)
    "csi.storage.k8s.io/provisioner-secret-namespace" $root.Release.Namespace
  -}}
{{- end -}}
{{- toJson (mergeOverwrite $parameters (deepCopy ($root.Values.parameters | default dict))) -}}
{{- end }}

{{/* Labels of what `helm test` makes; no Service selects it. */}}
{{- define "knit-storage-nfs.testLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: knit
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
