{{- define "demo.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 48 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- /* (dict "root" $ "component" "upstream"): what a selector needs, and nothing that an upgrade changes. */}}
{{- define "demo.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "demo.labels" -}}
{{ include "demo.selector" . }}
app.kubernetes.io/part-of: tiebar
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "demo.metadata" -}}
name: {{ include "demo.fullname" .root }}-{{ default .component .suffix }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "demo.labels" . | nindent 2 }}
{{- end }}

{{- define "demo.podMetadata" -}}
labels:
  {{- include "demo.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (deepCopy .root.Values.podAnnotations) (default dict .annotations) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "demo.podSpec" -}}
automountServiceAccountToken: false
# Links would add variables such as TIEBAR_REDIS_PORT, which look like flags.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* (dict "root" $ "resources" …): the fields every container has. */}}
{{- define "demo.container" -}}
image: {{ .root.Values.image.repository }}{{ with .root.Values.image.digest }}@{{ . }}{{ else }}:{{ default .root.Chart.AppVersion .root.Values.image.tag }}{{ end }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
resources: {{- toYaml .resources | nindent 2 }}
securityContext: {{- toYaml .root.Values.containerSecurityContext | nindent 2 }}
{{- end }}

{{- define "demo.logEnv" -}}
- {name: TIEBAR_LOG_FORMAT, value: {{ .Values.log.format | quote }}}
- {name: TIEBAR_LOG_LEVEL, value: {{ .Values.log.level | quote }}}
{{- end }}

{{- /* The instances by name and not by their Service: each shall get its share, whatever connections are reused. */}}
{{- define "demo.targets" -}}
{{- $name := include "demo.fullname" . -}}
{{- $targets := list -}}
{{- range until (int .Values.instance.replicas) -}}
{{- $targets = append $targets (printf "http://%s-instance-%d.%s-instances:8001" $name . $name) -}}
{{- end -}}
{{- toJson $targets -}}
{{- end }}

{{- define "demo.validate" -}}
{{- $url := .Values.externalRedis.url -}}
{{- if not (regexMatch "^redis(s?://|s?[+](sentinel|cluster)://)." $url) -}}
{{- fail (printf "externalRedis.url is %q; wanted redis://HOST:PORT, rediss://HOST:PORT, redis+sentinel://HOST:26379/MASTER-NAME or redis+cluster://HOST:6379" $url) -}}
{{- end -}}
{{- if regexMatch "^[a-z+]+://[^/]*@" $url -}}
{{- fail "externalRedis.url holds a user or password, which anyone who may read pods would see; put them into a Secret and name it in externalRedis.existingSecret" -}}
{{- end -}}
{{- end }}
