{{- /* Names and labels. */}}

{{- define "tiebar.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 48 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- /* (dict "root" $ "component" "operator"): what a selector needs, and nothing that an upgrade changes. */}}
{{- define "tiebar.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "tiebar.labels" -}}
{{ include "tiebar.selector" . }}
app.kubernetes.io/part-of: tiebar
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* (dict "root" $ "component" "operator"): metadata of an object; "suffix" when its name is not the component's. */}}
{{- define "tiebar.metadata" -}}
name: {{ include "tiebar.fullname" .root }}-{{ default .component .suffix }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "tiebar.labels" . | nindent 2 }}
{{- end }}

{{- /* (dict "image" .Values.image "default" .Chart.AppVersion): a digest wins over the tag. */}}
{{- define "tiebar.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .default .image.tag }}
{{- end -}}
{{- end }}

{{- /* (dict "root" $ "component" "operator" "values" .Values.operator) */}}
{{- define "tiebar.serviceAccountName" -}}
{{- $own := ternary (printf "%s-%s" (include "tiebar.fullname" .root) .component) "default" .values.serviceAccount.create -}}
{{- default $own .values.serviceAccount.name -}}
{{- end }}

{{- define "tiebar.serviceAccount" -}}
{{- if .values.serviceAccount.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "tiebar.serviceAccountName" . }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "tiebar.labels" . | nindent 4 }}
  {{- with .values.serviceAccount.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{- /* (dict "root" $ "component" "ui" "values" .Values.ui "replicas" 2) */}}
{{- define "tiebar.pdb" -}}
{{- if and .values.pdb.enabled (gt (int .replicas) 1) }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{- include "tiebar.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  # A pod that is not ready anyway must not hold up a node's drain.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "tiebar.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{- /* Seconds from SIGTERM to SIGKILL: the schema lets only `Ns` and `Nm` pass. */}}
{{- define "tiebar.gatewayGrace" -}}
{{- $drain := .Values.gateway.drainTimeout -}}
{{- $seconds := ternary (mul 60 (trimSuffix "m" $drain | int)) (trimSuffix "s" $drain | int) (hasSuffix "m" $drain) -}}
{{- add 10 $seconds -}}
{{- end }}

{{- /* Whether the dashboard speaks to the API server: when it acts, and when it asks who somebody is. */}}
{{- define "tiebar.uiNeedsApi" -}}
{{- if or .Values.ui.actions (and (eq .Values.ui.auth.mode "token") (not .Values.ui.auth.tokenSecret)) -}}
true
{{- end -}}
{{- end }}

{{- /* The names under which people reach the dashboard; it turns others away, as they may be rebound. */}}
{{- define "tiebar.uiHosts" -}}
{{- $service := printf "%s-ui" (include "tiebar.fullname" .) -}}
{{- $inNamespace := printf "%s.%s" $service .Release.Namespace -}}
{{- $hosts := list $service $inNamespace (printf "%s.svc" $inNamespace) (printf "%s.svc.cluster.local" $inNamespace) -}}
{{- if .Values.ui.ingress.enabled }}{{ $hosts = concat $hosts .Values.ui.ingress.hosts }}{{ end -}}
{{- if .Values.ui.httpRoute.enabled }}{{ $hosts = concat $hosts .Values.ui.httpRoute.hostnames }}{{ end -}}
{{- concat $hosts .Values.ui.allowHosts | uniq | toJson -}}
{{- end }}
