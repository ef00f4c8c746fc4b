{{/* What monitors, rules and dashboards have in common. In a namespace of others the release's own goes before the name. */}}
{{- define "trainer.monitoringMetadata" -}}
{{- $root := .root -}}
{{- $namespace := $root.Values.monitoring.namespace | default (include "trainer.namespace" $root) -}}
{{- $name := include "trainer.fullname" $root -}}
{{- if ne $namespace (include "trainer.namespace" $root) }}{{ $name = printf "%s-%s" (include "trainer.namespace" $root) $name }}{{ end -}}
{{- with .suffix }}{{ $name = printf "%s-%s" $name . }}{{ end -}}
{{- include "trainer.metadata" (dict "root" $root "name" $name "namespace" $namespace "component" "monitoring" "labels" .labels "annotations" .annotations) -}}
{{- end -}}

{{/* How the Prometheus operator scrapes a pod, whichever way it finds it. */}}
{{- define "trainer.endpoint" -}}
{{- $relabelings := list -}}
{{- range $label := list "job_name" "replica_type" "replica_index" -}}
{{- $from := list (printf "__meta_kubernetes_pod_label_training_kubeflow_org_%s" $label) -}}
{{- $relabelings = append $relabelings (dict "sourceLabels" $from "targetLabel" $label) -}}
{{- end -}}
{{- $own := dict "port" "metrics" "path" "/metrics" "scheme" (include "trainer.metricsScheme" .) "interval" (printf "%ds" (int .Values.monitoring.intervalSeconds)) "relabelings" $relabelings -}}
{{- toYaml (mustMergeOverwrite $own (deepCopy (.Values.monitoring.endpoint | default dict))) -}}
{{- end -}}

{{- define "trainer.metricsScheme" -}}
{{- $served := ((include "trainer.config" . | fromYaml).telemetry).prometheus | default dict -}}
{{- ternary "https" "http" (not (empty $served.tls_cert)) -}}
{{- end -}}

{{/* Annotations by which a Prometheus without the operator finds the pods, if they are asked for. */}}
{{- define "trainer.scrapeAnnotations" -}}
{{- if .Values.monitoring.annotations.enabled -}}
prometheus.io/scrape: "true"
prometheus.io/scheme: {{ include "trainer.metricsScheme" . }}
prometheus.io/port: {{ int .Values.monitoring.port | quote }}
prometheus.io/path: /metrics
{{- end -}}
{{- end -}}

{{- define "trainer.checkMonitoring" -}}
{{- $monitoring := .Values.monitoring -}}
{{- $ways := list -}}
{{- range $way := list "podMonitor" "serviceMonitor" "annotations" -}}
{{- if (index $monitoring $way).enabled }}{{ $ways = append $ways (printf "monitoring.%s.enabled" $way) }}{{ end -}}
{{- end -}}
{{- if gt (len $ways) 1 -}}
{{- fail (printf "%s are ways to the same metrics, which Prometheus would then have twice; keep one" (join " and " $ways)) -}}
{{- end -}}
{{- if and $ways (not $monitoring.enabled) -}}
{{- fail (printf "%s has nothing to scrape: the pods serve no metrics with monitoring.enabled: false" (first $ways)) -}}
{{- end -}}
{{- if and $monitoring.enabled (eq (int $monitoring.port) (int .Values.rendezvousPort)) -}}
{{- fail (printf "monitoring.port and rendezvousPort are both %d; change one" (int $monitoring.port)) -}}
{{- end -}}
{{- $apis := dict "podMonitor" "monitoring.coreos.com/v1" "serviceMonitor" "monitoring.coreos.com/v1" "prometheusRule" "monitoring.coreos.com/v1" -}}
{{- range $name, $api := $apis }}{{ include "trainer.checkApi" (dict "root" $ "name" $name "enabled" (index $monitoring $name).enabled "api" $api) }}{{ end -}}
{{- include "trainer.checkApi" (dict "root" . "name" "dashboards.grafanaDashboards" "enabled" $monitoring.dashboards.grafanaDashboards.enabled "api" "grafana.integreatly.org/v1beta1") -}}
{{- end -}}

{{/* dict root, name, enabled, api */}}
{{- define "trainer.checkApi" -}}
{{- if and .enabled .root.Values.monitoring.requireApi (not (.root.Capabilities.APIVersions.Has .api)) -}}
{{- fail (printf "monitoring.%s.enabled: the cluster has no %s; install the operator it belongs to, give `helm template` --api-versions %s, or set monitoring.requireApi: false to make the object anyway" .name .api .api) -}}
{{- end -}}
{{- end -}}
