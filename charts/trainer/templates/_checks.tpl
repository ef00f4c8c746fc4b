{{/* What the operator or the cluster would refuse, hang on, or take without effect is refused here, in plain words. */}}
{{- define "trainer.checks" -}}
{{- include "trainer.checkNames" . -}}
{{- include "trainer.checkShape" . -}}
{{- include "trainer.checkResources" (dict "name" "resources" "given" .Values.resources) -}}
{{- include "trainer.checkResources" (dict "name" "test.resources" "given" .Values.test.resources) -}}
{{- include "trainer.checkConfig" . -}}
{{- include "trainer.checkClaim" . -}}
{{- include "trainer.checkS3" . -}}
{{- include "trainer.checkEnv" . -}}
{{- include "trainer.checkMonitoring" . -}}
{{- include "trainer.checkExtras" . -}}
{{- end -}}

{{- define "trainer.checkNames" -}}
{{- $name := include "trainer.jobName" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "the job would be called %q, but its name must begin with a letter and hold small letters, digits and - only; choose another release name or set fullnameOverride" $name) -}}
{{- end -}}
{{- if gt (len $name) 50 -}}
{{- fail (printf "the job would be called %q, which has %d characters; the services of its pods leave room for 50: choose a release name of at most 41 or set fullnameOverride" $name (len $name)) -}}
{{- end -}}
{{- end -}}

{{- define "trainer.checkShape" -}}
{{- $shape := include "trainer.shape" . | fromJson -}}
{{- $masters := int $shape.masters -}}
{{- $workers := int $shape.workers -}}
{{- $elastic := .Values.elastic -}}
{{- if and $elastic.enabled $masters -}}
{{- fail "elastic.enabled goes with workers only: a master would be one agent too many and wait forever; leave master.replicas out and set worker.replicas" -}}
{{- end -}}
{{- if and $elastic.enabled (not $workers) -}}
{{- fail "elastic.enabled needs worker.replicas of at least 1" -}}
{{- end -}}
{{- if not (or $elastic.enabled $masters) -}}
{{- fail "master.replicas: 0 works with elastic.enabled only: workers alone have no address to meet at" -}}
{{- end -}}
{{- $min := $elastic.minReplicas | default $workers | int -}}
{{- $max := $elastic.maxReplicas | default $workers | int -}}
{{- if and $elastic.enabled (or (gt $min $workers) (lt $max $workers)) -}}
{{- fail (printf "worker.replicas is %d, which must lie between elastic.minReplicas (%d) and elastic.maxReplicas (%d)" $workers $min $max) -}}
{{- end -}}
{{- $nproc := atoi (regexFind "^[0-9]+$" $shape.nproc | default "0") -}}
{{- if and .Values.gpu.count (gt $nproc (int .Values.gpu.count)) -}}
{{- fail (printf "nprocPerNode is %d, but a pod has gpu.count %d: a process needs a GPU of its own" $nproc (int .Values.gpu.count)) -}}
{{- end -}}
{{- if hasKey ((.Values.resources).limits | default dict) .Values.gpu.resource -}}
{{- fail (printf "resources.limits has %s: say it as gpu.count" .Values.gpu.resource) -}}
{{- end -}}
{{- $gang := (.Values.schedulingPolicy).minAvailable | default 1 | int -}}
{{- if gt $gang (int $shape.pods) -}}
{{- fail (printf "schedulingPolicy.minAvailable is %d, but the job has %d pods only and would never start" $gang (int $shape.pods)) -}}
{{- end -}}
{{- end -}}

{{/* The operator would only note in an event that the API refuses its pods. dict name, given */}}
{{- define "trainer.checkResources" -}}
{{- $limits := (.given).limits | default dict -}}
{{- range $resource, $request := (.given).requests | default dict -}}
{{- $limit := index $limits $resource -}}
{{- if and (not (kindIs "invalid" $limit)) (gt (include "trainer.amount" $request | float64) (include "trainer.amount" $limit | float64)) -}}
{{- fail (printf "%s.requests.%s is %v, more than the limit of %v" $.name $resource $request $limit) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A quantity of Kubernetes as a plain number: 500m is 0.5 */}}
{{- define "trainer.amount" -}}
{{- $text := toString . -}}
{{- $unit := regexFind "[A-Za-z]+$" $text -}}
{{- $units := dict "m" 1e-3 "" 1.0 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- mulf (trimSuffix $unit $text | float64) (index $units $unit) -}}
{{- end -}}

{{- define "trainer.checkConfig" -}}
{{- $grace := int .Values.terminationGracePeriodSeconds -}}
{{- $need := add (int .Values.checkpointSeconds) 30 | int -}}
{{- if lt $grace $need -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, but a clean stop takes checkpointSeconds (%d) + 30 for the last step and the end of the processes; set it to at least %d" $grace (int .Values.checkpointSeconds) $need) -}}
{{- end -}}
{{- if hasKey ((.Values.config).run | default dict) "grace_seconds" -}}
{{- fail "config.run.grace_seconds is terminationGracePeriodSeconds in a pod; set that" -}}
{{- end -}}
{{- range $name, $value := dict "port" "monitoring.port" "enabled" "monitoring.enabled" -}}
{{- if hasKey ((($.Values.config).telemetry).prometheus | default dict) $name -}}
{{- fail (printf "config.telemetry.prometheus.%s is %s in a pod; set that" $name $value) -}}
{{- end -}}
{{- end -}}
{{- $config := include "trainer.config" . | fromYaml -}}
{{- $data := $config.data | default dict -}}
{{- $layout := $data.layout | default "auto" -}}
{{- if and (has $layout (list "synthetic" "embedded" "t1" "t2")) $data.path -}}
{{- fail (printf "data of your own (%s) and data.layout: %s, which makes data up (preset %s does that): set preset to none or to one for your data, or config.data.layout" $data.path $layout .Values.preset) -}}
{{- end -}}
{{- if .Values.jobId -}}
{{- $there := lookup "v1" "ConfigMap" (include "trainer.namespace" .) (include "trainer.jobName" .) | default dict -}}
{{- $text := index ($there.data | default dict) "config.yaml" | default "" -}}
{{- if and $text (ne (fromYaml $text | toJson) (toJson $config)) -}}
{{- fail (printf "jobId is %s, and the job of that name has begun with another config: change jobId, which starts a new job, or leave it out" .Values.jobId) -}}
{{- end -}}
{{- end -}}
{{- $store := $config.run.store -}}
{{- $places := list "/store" -}}
{{- range .Values.extraVolumeMounts }}{{ $places = append $places .mountPath }}{{ end -}}
{{- $lasts := hasPrefix "s3://" $store -}}
{{- range $places }}{{ if or (eq $store (print "file://" .)) (hasPrefix (print "file://" . "/") $store) }}{{ $lasts = true }}{{ end }}{{ end -}}
{{- if not $lasts -}}
{{- fail (printf "config.run.store is %s, which ends with the pod; a store is s3://bucket/prefix, or file:///store on the volume" $store) -}}
{{- end -}}
{{- end -}}

{{/* What the API would answer with a page about an immutable spec, after half of the upgrade is done. */}}
{{- define "trainer.checkClaim" -}}
{{- if not (or (include "trainer.storeIsS3" .) .Values.store.existingClaim) -}}
{{- $name := include "trainer.storeClaim" . -}}
{{- $there := (lookup "v1" "PersistentVolumeClaim" (include "trainer.namespace" .) $name).spec | default dict -}}
{{- $class := $there.storageClassName | default "" -}}
{{- $changes := or (ne (toJson $there.accessModes) (toJson .Values.store.accessModes)) (ne $class (.Values.store.storageClassName | default $class)) -}}
{{- if and $there $changes -}}
{{- fail (printf "the claim %s is there with store.accessModes %v and store.storageClassName %q, which a claim keeps for life: leave them as they were, or set store.existingClaim, another release name, or config.run.store to s3://bucket/prefix" $name $there.accessModes $class) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "trainer.checkS3" -}}
{{- $s3 := .Values.s3 -}}
{{- if and $s3.existingSecret (or $s3.accessKeyId $s3.secretAccessKey) -}}
{{- fail "s3.existingSecret and s3.accessKeyId are two places for the same keys; keep one" -}}
{{- end -}}
{{- if ne (empty $s3.accessKeyId) (empty $s3.secretAccessKey) -}}
{{- fail "s3.accessKeyId and s3.secretAccessKey go together; set both, or better s3.existingSecret" -}}
{{- end -}}
{{- $identity := .Values.workloadIdentity -}}
{{- $roles := compact (list $identity.aws.roleArn $identity.gcp.serviceAccount $identity.azure.clientId) -}}
{{- if and (include "trainer.storeIsS3" .) (not (or (include "trainer.s3Keys" .) $roles $s3.ambient)) -}}
{{- fail (printf "the store is %s, but nothing says who may write there: set s3.existingSecret, workloadIdentity, or s3.ambient: true where the keys come with the node" (include "trainer.store" .)) -}}
{{- end -}}
{{- if and $identity.aws.audience (not $identity.aws.roleArn) -}}
{{- fail "workloadIdentity.aws.audience needs workloadIdentity.aws.roleArn, the role the token is for" -}}
{{- end -}}
{{- if and $roles (not .Values.serviceAccount.create) (not $identity.aws.audience) -}}
{{- fail "workloadIdentity annotates the service account that the chart makes; with serviceAccount.create: false annotate yours and set s3.ambient: true" -}}
{{- end -}}
{{- end -}}

{{- define "trainer.checkEnv" -}}
{{- range .Values.extraEnv -}}
{{- if regexMatch "^(PET_.*|MASTER_ADDR|MASTER_PORT|RANK|WORLD_SIZE|PYTHONUNBUFFERED)$" .name -}}
{{- fail (printf "extraEnv: %s is set by the operator itself, after yours; see master, worker, elastic, nprocPerNode and rendezvousPort" .name) -}}
{{- end -}}
{{- if and (has .name (list "AWS_SECRET_ACCESS_KEY" "AWS_SESSION_TOKEN" "WANDB_API_KEY" "HF_TOKEN")) .value -}}
{{- fail (printf "extraEnv: %s would stand in the job object, where anybody who may look at jobs can read it; use valueFrom.secretKeyRef" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "trainer.checkExtras" -}}
{{- $volumes := list "config" "scratch" "shm" "store" "data" "cache" "aws" "token" -}}
{{- range .Values.extraVolumes -}}
{{- if has .name $volumes -}}
{{- fail (printf "extraVolumes: %s is the name of a volume of the chart's own; choose another" .name) -}}
{{- end -}}
{{- end -}}
{{- range .Values.extraVolumeMounts -}}
{{- if has .mountPath (list "/etc/trainer" "/scratch" "/dev/shm" "/store" "/data" "/scratch/cache" "/etc/aws" "/var/run/secrets/aws") -}}
{{- fail (printf "extraVolumeMounts: %s is a place of the chart's own; choose another, or see store, data, cache and shm" .mountPath) -}}
{{- end -}}
{{- end -}}
{{- range concat (.Values.initContainers | default list) (.Values.sidecars | default list) -}}
{{- if has .name (list "pytorch" "init-pytorch") -}}
{{- fail (printf "initContainers, sidecars: %s is the name of a container that the job has already" .name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.sidecars (semverCompare "<1.29.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail "sidecars need Kubernetes 1.29: in an older one they would keep a finished pod alive, and the job with it" -}}
{{- end -}}
{{- end -}}
