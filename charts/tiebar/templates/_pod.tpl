{{- /* What the pods of all components have in common. */}}

{{- /* (dict "root" $ "component" "ui" "values" .Values.ui "token" true "redis" true): a pod template's metadata. */}}
{{- define "tiebar.podMetadata" -}}
labels:
  {{- include "tiebar.labels" . | nindent 2 }}
  {{- if .redis }}
  tiebar.dev/redis-client: "true"
  {{- end }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (deepCopy .values.podAnnotations) (default dict .annotations) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tiebar.podSpec" -}}
automountServiceAccountToken: {{ default false .token }}
# Links would add variables such as TIEBAR_REDIS_PORT, which look like flags.
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .values.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else if hasKey .values "topologySpreadConstraints" }}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "tiebar.selector" $ | nindent 8 }}
    # Else the pods of the old revision count during a rollout.
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- end }}

{{- define "tiebar.containerSecurity" -}}
securityContext: {{- toYaml .Values.containerSecurityContext | nindent 2 }}
{{- end }}

{{- define "tiebar.logEnv" -}}
- {name: TIEBAR_LOG_FORMAT, value: {{ .Values.log.format | quote }}}
- {name: TIEBAR_LOG_LEVEL, value: {{ .Values.log.level | quote }}}
- name: TIEBAR_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- end }}

{{- /* (dict "root" $ "values" .Values.ui): the Secret with user and password; empty: none. */}}
{{- define "tiebar.redisSecret" -}}
{{- if .root.Values.redis.enabled -}}
{{- default (printf "%s-redis" (include "tiebar.fullname" .root)) .root.Values.redis.auth.existingSecret -}}
{{- else -}}
{{- default .root.Values.externalRedis.existingSecret .values.redisSecret -}}
{{- end -}}
{{- end }}

{{- /* The same arguments: how the component reaches the store. */}}
{{- define "tiebar.storeEnv" -}}
{{- $values := .root.Values -}}
{{- $external := $values.externalRedis -}}
{{- $dir := "/etc/tiebar/redis" -}}
- name: TIEBAR_REDIS
  value: {{ ternary (printf "redis://%s-redis:6379" (include "tiebar.fullname" .root)) $external.url $values.redis.enabled | quote }}
- {name: TIEBAR_STORE_TIMEOUT, value: {{ $values.store.timeout | quote }}}
- {name: TIEBAR_KEY_PREFIX, value: {{ $values.store.keyPrefix | quote }}}
- {name: TIEBAR_KEY_STYLE, value: {{ $values.store.keyStyle | quote }}}
{{- with include "tiebar.redisSecret" . }}
- {name: TIEBAR_REDIS_PASSWORD_FILE, value: {{ $dir }}/auth/password}
{{- if not $values.redis.enabled }}
- name: TIEBAR_REDIS_USERNAME
  valueFrom:
    # Without this key: the default user.
    secretKeyRef: {name: {{ . }}, key: {{ $external.usernameKey }}, optional: true}
{{- end }}
{{- end }}
{{- if and (not $values.redis.enabled) $external.ca.existingSecret }}
- {name: TIEBAR_REDIS_CA_FILE, value: {{ $dir }}/ca/ca.crt}
{{- end }}
{{- if and (not $values.redis.enabled) $external.clientCertificate.existingSecret }}
- {name: TIEBAR_REDIS_CERT_FILE, value: {{ $dir }}/client/tls.crt}
- {name: TIEBAR_REDIS_KEY_FILE, value: {{ $dir }}/client/tls.key}
{{- end }}
{{- end }}

{{- /* Secrets are mounted as folders: only then does a pod see their new content. */}}
{{- define "tiebar.storeVolumeMounts" -}}
{{- $values := .root.Values -}}
{{- $external := $values.externalRedis -}}
{{- if include "tiebar.redisSecret" . }}
- {name: redis-auth, mountPath: /etc/tiebar/redis/auth, readOnly: true}
{{- end }}
{{- if and (not $values.redis.enabled) $external.ca.existingSecret }}
- {name: redis-ca, mountPath: /etc/tiebar/redis/ca, readOnly: true}
{{- end }}
{{- if and (not $values.redis.enabled) $external.clientCertificate.existingSecret }}
- {name: redis-client, mountPath: /etc/tiebar/redis/client, readOnly: true}
{{- end }}
{{- end }}

{{- define "tiebar.storeVolumes" -}}
{{- $values := .root.Values -}}
{{- $external := $values.externalRedis -}}
{{- with include "tiebar.redisSecret" . }}
- name: redis-auth
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: {{ ternary $values.redis.auth.passwordKey $external.passwordKey $values.redis.enabled }}, path: password}
{{- end }}
{{- if and (not $values.redis.enabled) $external.ca.existingSecret }}
- name: redis-ca
  secret:
    secretName: {{ $external.ca.existingSecret }}
    defaultMode: 0440
    items:
      - {key: {{ $external.ca.key }}, path: ca.crt}
{{- end }}
{{- if and (not $values.redis.enabled) $external.clientCertificate.existingSecret }}
- name: redis-client
  secret:
    secretName: {{ $external.clientCertificate.existingSecret }}
    defaultMode: 0440
    items:
      - {key: {{ $external.clientCertificate.certKey }}, path: tls.crt}
      - {key: {{ $external.clientCertificate.keyKey }}, path: tls.key}
{{- end }}
{{- end }}

{{- /* (dict "port" "admin"): neither probe asks Redis: an outage of the store is a state, not a reason to restart. */}}
{{- define "tiebar.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: {{ .port }}}
  periodSeconds: 1
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /livez, port: {{ .port }}}
  periodSeconds: 20
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: {{ .port }}}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}
