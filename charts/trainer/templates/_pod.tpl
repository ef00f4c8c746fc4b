{{/* What the job's pods and the test's pod have in common: how they see settings, store, data and keys. */}}
{{- define "trainer.env" -}}
- {name: TRAINER__RUN__NAME, value: {{ include "trainer.runName" . | quote }}}
- {name: TRAINER__RUN__GRACE_SECONDS, value: {{ .Values.terminationGracePeriodSeconds | int | quote }}}
{{- if .Values.monitoring.enabled }}
- {name: TRAINER__TELEMETRY__PROMETHEUS__PORT, value: {{ .Values.monitoring.port | int | quote }}}
{{- else }}
- {name: TRAINER__TELEMETRY__PROMETHEUS__ENABLED, value: "off"}
{{- end }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: JOB_NAME
  valueFrom: {fieldRef: {fieldPath: "metadata.labels['training.kubeflow.org/job-name']"}}
{{- with .Values.nccl.debug }}
- {name: NCCL_DEBUG, value: {{ . }}}
{{- end }}
{{- with .Values.nccl.socketInterface }}
- {name: NCCL_SOCKET_IFNAME, value: {{ . | quote }}}
- {name: GLOO_SOCKET_IFNAME, value: {{ . | quote }}}
{{- end }}
{{- include "trainer.s3Env" . }}
{{- with .Values.extraEnv }}
{{- tpl (toYaml .) $ | nindent 0 }}
{{- end }}
{{- end -}}

{{- define "trainer.s3Env" -}}
{{- if eq (include "trainer.s3Keys" .) "env" }}
{{- $keys := .Values.s3.keys }}
{{- $names := dict "AWS_ACCESS_KEY_ID" $keys.accessKeyId "AWS_SECRET_ACCESS_KEY" $keys.secretAccessKey }}
{{- with $keys.sessionToken }}
{{- $_ := set $names "AWS_SESSION_TOKEN" . }}
{{- end }}
{{- range $name, $key := $names }}
- name: {{ $name }}
  valueFrom: {secretKeyRef: {name: {{ include "trainer.s3Secret" $ | quote }}, key: {{ $key | quote }}}}
{{- end }}
{{- else if eq (include "trainer.s3Keys" .) "file" }}
- {name: AWS_SHARED_CREDENTIALS_FILE, value: /etc/aws/credentials}
{{- end }}
{{- with .Values.workloadIdentity.aws }}
{{- if .audience }}
- {name: AWS_ROLE_ARN, value: {{ .roleArn | quote }}}
- {name: AWS_WEB_IDENTITY_TOKEN_FILE, value: /var/run/secrets/aws/token}
{{- end }}
{{- end }}
{{- end -}}

{{/* dict root, job: the ConfigMap is called as the job */}}
{{- define "trainer.volumes" -}}
{{- $values := .root.Values -}}
- name: config
  configMap: {name: {{ .job | quote }}}
- name: scratch
  emptyDir: {sizeLimit: {{ $values.scratch.size | quote }}}
{{- if $values.shm.enabled }}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ $values.shm.size | quote }}}
{{- end }}
{{- if not (include "trainer.storeIsS3" .root) }}
- name: store
  persistentVolumeClaim: {claimName: {{ include "trainer.storeClaim" .root | quote }}}
{{- end }}
{{- with $values.data.existingClaim }}
- name: data
  persistentVolumeClaim: {claimName: {{ . | quote }}, readOnly: {{ $values.data.readOnly }}}
{{- end }}
{{- with $values.cache.existingClaim }}
- name: cache
  persistentVolumeClaim: {claimName: {{ . | quote }}}
{{- end }}
{{- if eq (include "trainer.s3Keys" .root) "file" }}
- name: aws
  secret:
    secretName: {{ include "trainer.s3Secret" .root | quote }}
    defaultMode: 0440
    items: [{key: {{ $values.s3.keys.credentials | quote }}, path: credentials}]
{{- end }}
{{- with $values.workloadIdentity.aws.audience }}
- name: token
  projected:
    defaultMode: 0440
    sources: [{serviceAccountToken: {audience: {{ . | quote }}, path: token, expirationSeconds: 3600}}]
{{- end }}
{{- with $values.extraVolumes }}
{{- tpl (toYaml .) $.root | nindent 0 }}
{{- end }}
{{- end -}}

{{- define "trainer.mounts" -}}
- {name: config, mountPath: /etc/trainer, readOnly: true}
- {name: scratch, mountPath: /scratch}
{{- if .Values.shm.enabled }}
- {name: shm, mountPath: /dev/shm}
{{- end }}
{{- if not (include "trainer.storeIsS3" .) }}
- {name: store, mountPath: /store}
{{- end }}
{{- with .Values.data }}
{{- if .existingClaim }}
- {name: data, mountPath: /data, subPath: {{ .subPath | quote }}, readOnly: {{ .readOnly }}}
{{- end }}
{{- end }}
{{- with .Values.cache }}
{{- if .existingClaim }}
- {name: cache, mountPath: /scratch/cache, subPath: {{ .subPath | quote }}}
{{- end }}
{{- end }}
{{- if eq (include "trainer.s3Keys" .) "file" }}
- {name: aws, mountPath: /etc/aws, readOnly: true}
{{- end }}
{{- if .Values.workloadIdentity.aws.audience }}
- {name: token, mountPath: /var/run/secrets/aws, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{- tpl (toYaml .) $ | nindent 0 }}
{{- end }}
{{- end -}}

{{/* Where a pod runs and as whom. */}}
{{- define "trainer.placement" -}}
serviceAccountName: {{ include "trainer.serviceAccountName" . | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with concat (.Values.global.imagePullSecrets | default list) (.Values.imagePullSecrets | default list) | uniq }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "trainer.podAnnotations" -}}
{{- $scrape := include "trainer.scrapeAnnotations" . | fromYaml -}}
{{- with mustMerge $scrape (.Values.podAnnotations | default dict) (.Values.commonAnnotations | default dict) -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "trainer.podLabels" -}}
{{- with mustMerge (dict) (.Values.podLabels | default dict) (.Values.commonLabels | default dict) }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- if .Values.workloadIdentity.azure.clientId }}
azure.workload.identity/use: "true"
{{- end }}
{{- end -}}
