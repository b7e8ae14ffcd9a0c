{{/* Names are fixed, and so one release fits into a namespace: sandboxes' policies know their callers by these labels, the controller its
lease, its keys and the gateway's account by these names. */}}

{{- define "kernelbox.labels" -}}
{{ include "kernelbox.podLabels" . }}
app.kubernetes.io/part-of: kernelbox
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What does not change with the chart's version: else every upgrade would start all pods anew. */}}
{{- define "kernelbox.podLabels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* One that is named with a digest needs no tag. */}}
{{- define "kernelbox.image" -}}
{{- $image := printf "%s/%s" .root.Values.image.registry .image.repository -}}
{{- if .image.digest -}}
{{ printf "%s@%s" $image .image.digest }}
{{- else -}}
{{ printf "%s:%s" $image (.root.Values.image.tag | default .root.Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- define "kernelbox.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "kernelbox.containerSecurity" -}}
{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
{{- end }}

{{- define "kernelbox.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where a pod runs: `placed` is the component's values. */}}
{{- define "kernelbox.placement" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
{{- with index $.placed $key }}
{{ dict $key . | toYaml }}
{{- end }}
{{- end }}
{{- end }}

{{- define "kernelbox.tlsSecret" -}}
{{ .Values.tls.existingSecret | default "kernelbox-gateway-tls" }}
{{- end }}

{{- define "kernelbox.endpoint" -}}
{{ printf "%s://kernelbox-gateway.%s.svc:7070" (ternary "https" "http" .Values.tls.enabled) .Release.Namespace }}
{{- end }}
