{{- define "pooler.name" -}}
{{- if contains "pooler" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-pooler{{ end }}
{{- end }}

{{- define "pooler.selector" -}}
app.kubernetes.io/name: pooler
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "pooler.labels" -}}
{{ include "pooler.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "pooler.secret" -}}
{{ .Values.existingSecret | default (include "pooler.name" .) }}
{{- end }}

{{- /* The most replicas there can be at a time, those that end and still drain included. */ -}}
{{- define "pooler.most" -}}
{{- $replicas := int .Values.replicas }}
{{- if ne .Values.autoscaling.kind "none" }}{{ $replicas = int .Values.autoscaling.max }}{{ end }}
{{- add $replicas (int .Values.rollout.surge) }}
{{- end }}

{{- /* Server connections of one replica. */ -}}
{{- define "pooler.share" -}}
{{- $free := sub (int .Values.postgres.maxConnections) (int .Values.postgres.reserved) }}
{{- $share := div $free (include "pooler.most" . | int) }}
{{- if lt (int $share) 1 }}
{{- fail (printf "%d free connections are too few for %s replicas: raise postgres.maxConnections, or lower replicas" (int $free) (include "pooler.most" .)) }}
{{- end }}
{{- $share }}
{{- end }}

{{- define "pooler.config" -}}
{{- $share := include "pooler.share" . | int }}
{{- $config := deepCopy .Values.config }}
{{- $ours := dict
      "listen" (dict "host" "*" "port" 6432)
      "limits" (dict "max_server_connections" $share)
      "timeouts" (dict "shutdown_timeout" (int .Values.drain.timeout))
      "metrics" (dict "listen" "*:9127") }}
{{- if or .Values.userlist .Values.existingSecret }}
{{- $ours = mergeOverwrite $ours (dict "auth" (dict "file" "/etc/pooler-secrets/userlist/userlist.txt")) }}
{{- end }}
{{- if .Values.peers }}
{{- $ours = mergeOverwrite $ours (dict "peers" (dict "hosts" (printf "%s-peers:6432" (include "pooler.name" .)))) }}
{{- end }}
{{- toYaml (mergeOverwrite $config $ours) }}
{{- end }}
