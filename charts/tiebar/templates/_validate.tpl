{{- /*
  What values.schema.json cannot say, or not in words that help. One line per mistake, all at once.
*/}}
{{- define "tiebar.validate" -}}
{{- $errors := list -}}
{{- $external := .Values.externalRedis -}}
{{- if and .Values.redis.enabled $external.url -}}
{{- $errors = append $errors "externalRedis.url is set while redis.enabled is true; set redis.enabled=false to use your own Redis, or drop externalRedis.url" -}}
{{- end -}}
{{- if and (not .Values.redis.enabled) (not $external.url) -}}
{{- $errors = append $errors "there is no Redis: set externalRedis.url (redis://HOST:PORT), or redis.enabled=true for one without persistence" -}}
{{- end -}}
{{- if not (regexMatch "^$|^redis(s?://|s?[+](sentinel|cluster)://)." $external.url) -}}
{{- $errors = append $errors (printf "externalRedis.url is %q; wanted redis://HOST:PORT, rediss://HOST:PORT, redis+sentinel://HOST:26379/MASTER-NAME or redis+cluster://HOST:6379" $external.url) -}}
{{- end -}}
{{- if and (hasPrefix "redis+sentinel" (replace "rediss" "redis" $external.url)) (not (regexMatch "://[^/]+/[^/]+$" $external.url)) -}}
{{- $errors = append $errors "externalRedis.url does not name the master: redis+sentinel://HOST:26379,HOST:26379/MASTER-NAME" -}}
{{- end -}}
{{- if regexMatch "^[a-z+]+://[^/]*@" $external.url -}}
{{- $errors = append $errors "externalRedis.url holds a user or password, which anyone who may read pods would see; put them into a Secret and name it in externalRedis.existingSecret" -}}
{{- end -}}
{{- if and $external.url (not (hasPrefix "rediss" $external.url)) (or $external.ca.existingSecret $external.clientCertificate.existingSecret) -}}
{{- $errors = append $errors (printf "externalRedis.ca and externalRedis.clientCertificate need TLS: externalRedis.url begins with rediss, not %q" (first (splitList ":" $external.url))) -}}
{{- end -}}
{{- if and (hasPrefix "redis+cluster" $external.url) (eq .Values.store.keyStyle "plain") -}}
{{- $errors = append $errors "store.keyStyle is plain, which Redis Cluster cannot keep together; leave it at auto, or hash-tag" -}}
{{- end -}}
{{- if and .Values.operator.namespaces (not .Values.operator.clusterId) $external.url -}}
{{- $errors = append $errors "operator.clusterId is needed with operator.namespaces and a Redis of your own: an operator of some namespaces may not read kube-system's UID; any text will do that no other cluster on this Redis has" -}}
{{- end -}}
{{- if and .Values.ui.actions (eq .Values.ui.auth.mode "none") -}}
{{- $errors = append $errors "ui.actions is true while ui.auth.mode is none: anyone could open and close circuits; set ui.auth.mode to token or proxy-header" -}}
{{- end -}}
{{- if and (eq .Values.ui.auth.mode "proxy-header") (not .Values.ui.auth.proxies) -}}
{{- $errors = append $errors "ui.auth.proxies is empty while ui.auth.mode is proxy-header: anyone could send that header; name the networks the proxy connects from" -}}
{{- end -}}
{{- if and .Values.ui.ingress.enabled (not .Values.ui.ingress.hosts) -}}
{{- $errors = append $errors "ui.ingress.hosts is empty while ui.ingress.enabled is true; name at least one host" -}}
{{- end -}}
{{- if and .Values.ui.httpRoute.enabled (not .Values.ui.httpRoute.parentRefs) -}}
{{- $errors = append $errors "ui.httpRoute.parentRefs is empty while ui.httpRoute.enabled is true; name the Gateway to attach to" -}}
{{- end -}}
{{- if and .Values.gateway.enabled (not .Values.gateway.routes) -}}
{{- $errors = append $errors "gateway.routes is empty while gateway.enabled is true; give at least one {service, upstream}" -}}
{{- end -}}
{{- if and .Values.gateway.autoscaling.enabled (gt (int .Values.gateway.autoscaling.minReplicas) (int .Values.gateway.autoscaling.maxReplicas)) -}}
{{- $errors = append $errors (printf "gateway.autoscaling.minReplicas (%d) is above maxReplicas (%d)" (int .Values.gateway.autoscaling.minReplicas) (int .Values.gateway.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- range $name, $component := dict "operator" .Values.operator "ui" .Values.ui "gateway" .Values.gateway -}}
{{- if and (not $component.serviceAccount.create) (not $component.serviceAccount.name) (ne $name "gateway") -}}
{{- $errors = append $errors (printf "%s.serviceAccount.name is empty while create is false; name the ServiceAccount to use" $name) -}}
{{- end -}}
{{- end -}}
{{- if $errors -}}
{{- fail (printf "\n- %s" (join "\n- " $errors)) -}}
{{- end -}}
{{- end }}
