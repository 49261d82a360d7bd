{{/*
A Job of this chart: its name changes with each upgrade, since a Job cannot be changed, and with what
it does, for tools that only render. Not hooks of helm: those run before anything else of the release,
and a database in the same release would not be there yet. Workers wait for what these Jobs do.
*/}}
{{- define "knit-app.jobMetadata" -}}
{{- $about := dict "root" .root "component" .component -}}
{{- $v := .root.Values }}
{{- $does := print .pod (include "knit-app.settings" .root) (toJson ($v.podLabels | default dict)) (toJson ($v.podAnnotations | default dict)) }}
name: knit-{{ .component }}-{{ .root.Release.Revision }}-{{ $does | sha256sum | trunc 8 }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "knit-app.labels" $about | nindent 2 }}
{{- end }}

{{- define "knit-app.jobSpec" -}}
backoffLimit: 20
activeDeadlineSeconds: {{ .root.Values.patience | int64 | add 600 }}
template:
  {{- include "knit-app.jobTemplate" . | nindent 2 }}
{{- end }}

{{- define "knit-app.jobTemplate" -}}
{{- $about := dict "root" .root "component" .component -}}
metadata:
  labels:
    {{- include "knit-app.podLabels" $about | nindent 4 }}
    {{- with .root.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .root.Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- .pod | nindent 2 }}
{{- end }}

{{- define "knit-app.jobPod" -}}
restartPolicy: OnFailure
serviceAccountName: knit-jobs
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "knit-app.podSecurity" .root | nindent 2 }}
{{- include "knit-app.placement" .root }}
containers:
  - name: {{ .component }}
    image: {{ include "knit-app.image" (dict "root" .root "image" .root.Values.image) }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    command:
      {{- toYaml .args | nindent 6 }}
    envFrom:
      {{- include "knit-app.envFrom" .root | nindent 6 }}
    env:
      {{- .env | nindent 6 }}
    resources:
      {{- toYaml .root.Values.jobs.resources | nindent 6 }}
    securityContext:
      {{- include "knit-app.containerSecurity" .root | nindent 6 }}
    volumeMounts:
      {{- include "knit-app.sharedMounts" .root | nindent 6 }}
volumes:
  {{- include "knit-app.sharedVolumes" .root | nindent 2 }}
{{- end }}
