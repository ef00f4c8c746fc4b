{{/* The release's name for everything. As part of another chart the chart's own name (or alias) stands behind it. */}}
{{- define "trainer.fullname" -}}
{{- $suffix := .Values.nameOverride | default (ternary "" .Chart.Name .Chart.IsRoot) -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if or (not $suffix) (contains $suffix .Release.Name) -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $suffix -}}
{{- end -}}
{{- end -}}

{{- define "trainer.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace -}}
{{- end -}}

{{/* What never changes within a release: the only labels that selectors may use. */}}
{{- define "trainer.selectorLabels" -}}
app.kubernetes.io/name: trainer
app.kubernetes.io/instance: {{ include "trainer.fullname" . | quote }}
app.kubernetes.io/component: training
{{- end -}}

{{- define "trainer.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ regexReplaceAll "[^A-Za-z0-9]+$" (.Values.image.tag | default .Chart.AppVersion | trunc 63) "" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: trainer
app.kubernetes.io/name: trainer
app.kubernetes.io/instance: {{ include "trainer.fullname" . | quote }}
{{- end -}}

{{/* dict root, name, component, and the object's own namespace, labels and annotations if it has some */}}
{{- define "trainer.metadata" -}}
{{- $labels := include "trainer.labels" .root | fromYaml | mustMerge (dict "app.kubernetes.io/component" .component) -}}
{{- $labels = mustMerge $labels (.labels | default dict) (.root.Values.commonLabels | default dict) -}}
{{- $annotations := mustMerge (dict) (.annotations | default dict) (.root.Values.commonAnnotations | default dict) -}}
name: {{ .name | quote }}
namespace: {{ .namespace | default (include "trainer.namespace" .root) | quote }}
labels:
  {{- toYaml $labels | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "trainer.image" -}}
{{- $image := .Values.image -}}
{{- $registry := .Values.global.imageRegistry | default $image.registry -}}
{{- $tag := printf ":%s" ($image.tag | default .Chart.AppVersion) -}}
{{- with $registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}{{- if $image.digest }}@{{ $image.digest }}{{ else }}{{ $tag }}{{ end -}}
{{- end -}}

{{- define "trainer.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "trainer.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "trainer.storeClaim" -}}
{{- .Values.store.existingClaim | default (printf "%s-store" (include "trainer.fullname" .)) -}}
{{- end -}}

{{- define "trainer.s3Secret" -}}
{{- .Values.s3.existingSecret | default (printf "%s-s3" (include "trainer.fullname" .)) -}}
{{- end -}}
