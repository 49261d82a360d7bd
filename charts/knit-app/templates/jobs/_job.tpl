{{/*
A Job of this chart: its name changes with each upgrade, since a Job cannot be changed, and with what
it does, for tools that only render. Not hooks of helm: those run before anything else of the release,
and a database in the same release would not be there yet. Workers wait for what these Jobs do.
*/}}
{{- define "knit-app.jobMetadata" -}}
{{- $about := dict "root" .root "component" .component -}}
name: knit-{{ .component }}-{{ .root.Release.Revision }}-{{ .pod | sha256sum | trunc 8 }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "knit-app.labels" $about | nindent 2 }}
{{- end }}

{{- define "knit-app.jobSpec" -}}
{{- $about := dict "root" .root "component" .component -}}
backoffLimit: 20
activeDeadlineSeconds: {{ .root.Values.patience | int64 | add 600 }}
template:
  metadata:
    labels:
      {{- include "knit-app.podLabels" $about | nindent 6 }}
      {{- with .root.Values.podLabels }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  spec:
    {{- .pod | nindent 4 }}
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
