{{/* Numbers of pods and processes as {"masters": 1, "workers": 2, "pods": 3, "nproc": "1"} */}}
{{- define "trainer.shape" -}}
{{- $masters := ternary 0 1 .Values.elastic.enabled -}}
{{- if not (kindIs "invalid" .Values.master.replicas) }}{{ $masters = int .Values.master.replicas }}{{ end -}}
{{- $workers := int .Values.worker.replicas -}}
{{- $nproc := .Values.nprocPerNode | default (max 1 (int .Values.gpu.count) | toString) -}}
{{- dict "masters" $masters "workers" $workers "pods" (add $masters $workers) "nproc" $nproc | toJson -}}
{{- end -}}

{{/* Everything of a pod that decides how training runs. dict root, job */}}
{{- define "trainer.podSpec" -}}
{{- $values := .root.Values -}}
{{- include "trainer.placement" .root }}
{{- with $values.affinity }}
affinity:
  {{- tpl (toYaml .) $.root | nindent 2 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $own := dict "labelSelector" (dict "matchLabels" (include "trainer.selectorLabels" $.root | fromYaml)) }}
  - {{ tpl (toYaml (ternary . (mustMerge (deepCopy .) $own) (hasKey . "labelSelector"))) $.root | indent 4 | trim }}
  {{- end }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $values.schedulerName }}
schedulerName: {{ . | quote }}
{{- end }}
terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds | int }}
{{- with $values.runPolicy.activeDeadlineSeconds }}
activeDeadlineSeconds: {{ . | int }}
{{- end }}
{{- if or $values.initContainers $values.sidecars }}
initContainers:
  {{- with $values.initContainers }}
  {{- tpl (toYaml .) $.root | nindent 2 }}
  {{- end }}
  {{- range $values.sidecars }}
  - {{ tpl (toYaml (mustMerge (dict "restartPolicy" "Always") .)) $.root | indent 4 | trim }}
  {{- end }}
{{- end }}
containers:
  - {{ include "trainer.container" .root | indent 4 | trim }}
volumes:
  {{- include "trainer.volumes" . | nindent 2 }}
{{- end -}}

{{- define "trainer.container" -}}
name: pytorch
image: {{ include "trainer.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args:
  {{- if not .Values.preflight }}
  - --no-preflight
  {{- end }}
  - --config
  - /etc/trainer/config.yaml
env:
  {{- include "trainer.env" . | nindent 2 }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- tpl (toYaml .) $ | nindent 2 }}
{{- end }}
ports:
  - {name: pytorchjob-port, containerPort: {{ int .Values.rendezvousPort }}, protocol: TCP}
  {{- if .Values.monitoring.enabled }}
  - {name: metrics, containerPort: {{ int .Values.monitoring.port }}, protocol: TCP}
  {{- end }}
{{- $resources := deepCopy (.Values.resources | default dict) }}
{{- if .Values.gpu.count }}
{{- $_ := set $resources "limits" (mustMerge (dict .Values.gpu.resource (int .Values.gpu.count)) ($resources.limits | default dict)) }}
{{- end }}
resources:
  {{- toYaml $resources | nindent 2 }}
{{- with .Values.containerSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
  {{- include "trainer.mounts" . | nindent 2 }}
{{- end -}}

{{/* dict root, job */}}
{{- define "trainer.elasticPolicy" -}}
{{- with .root.Values.elastic -}}
rdzvBackend: c10d
rdzvId: {{ $.job | quote }}
minReplicas: {{ .minReplicas | default $.root.Values.worker.replicas | int }}
maxReplicas: {{ .maxReplicas | default $.root.Values.worker.replicas | int }}
maxRestarts: {{ .maxRestarts | int }}
{{- with .rdzvConf }}
rdzvConf:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* The operator never rolls out a change, so whatever ends up in a pod's spec, or shapes the job, is part of its name. */}}
{{- define "trainer.jobId" -}}
{{- if .Values.jobId -}}
{{- .Values.jobId -}}
{{- else -}}
{{- $blank := dict "root" . "job" "-" -}}
{{- $pod := include "trainer.podSpec" $blank | fromYaml -}}
{{- $elastic := ternary (include "trainer.elasticPolicy" $blank) "{}" .Values.elastic.enabled | fromYaml -}}
{{- $config := include "trainer.config" . | fromYaml -}}
{{- $parts := list $pod $config (include "trainer.shape" .) $elastic (.Values.schedulingPolicy | default dict) .Values.kueue -}}
{{- toJson $parts | sha256sum | trunc 8 -}}
{{- end -}}
{{- end -}}

{{- define "trainer.jobName" -}}
{{- printf "%s-%s" (include "trainer.fullname" .) (include "trainer.jobId" .) -}}
{{- end -}}
