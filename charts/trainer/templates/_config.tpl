{{/* The trainer's settings as one YAML text: preset < config < what only the chart knows. */}}
{{- define "trainer.config" -}}
{{- $given := .Values.config | default dict -}}
{{- $config := dict -}}
{{- if ne .Values.preset "none" -}}
{{- $task := $given.task | default "signs" -}}
{{- $text := .Files.Get (printf "files/presets/%s/%s.yaml" $task .Values.preset) -}}
{{- if not $text -}}
{{- $own := list -}}
{{- range $path, $_ := .Files.Glob (printf "files/presets/%s/*.yaml" $task) }}{{ $own = append $own (trimSuffix ".yaml" (base $path)) }}{{ end -}}
{{- fail (printf "preset: the task %s has none that is called %s; set preset to one of its own (%s) or to none" $task .Values.preset ($own | sortAlpha | join ", ")) -}}
{{- end -}}
{{- $config = fromYaml $text -}}
{{- end -}}
{{- $config = mustMergeOverwrite $config (deepCopy $given) -}}
{{- $run := $config.run | default dict -}}
{{- $own := dict "name" ($run.name | default (include "trainer.fullname" .)) "store" ($run.store | default "file:///store") "grace_seconds" (int .Values.terminationGracePeriodSeconds) -}}
{{- $_ := set $config "run" (mustMergeOverwrite $run $own) -}}
{{- if and .Values.data.existingClaim (not ($config.data).path) -}}
{{- $_ := set $config "data" (mustMergeOverwrite ($config.data | default dict) (dict "path" "/data")) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- define "trainer.runName" -}}
{{- (include "trainer.config" . | fromYaml).run.name -}}
{{- end -}}

{{- define "trainer.store" -}}
{{- (include "trainer.config" . | fromYaml).run.store -}}
{{- end -}}

{{/* "yes" where the store lies in S3 */}}
{{- define "trainer.storeIsS3" -}}
{{- if hasPrefix "s3://" (include "trainer.store" .) }}yes{{ end -}}
{{- end -}}

{{/* "yes" where the pods have to reach S3: for the store, or for data that lie there */}}
{{- define "trainer.usesS3" -}}
{{- if or (include "trainer.storeIsS3" .) (hasPrefix "s3://" (((include "trainer.config" . | fromYaml).data).path | default "")) }}yes{{ end -}}
{{- end -}}

{{/* How the keys of S3 come into the pod: file, env, or nothing of ours. */}}
{{- define "trainer.s3Keys" -}}
{{- if or .Values.s3.existingSecret .Values.s3.accessKeyId -}}
{{- .Values.s3.mode -}}
{{- end -}}
{{- end -}}

{{- define "trainer.s3Ports" -}}
{{- $endpoint := ((include "trainer.config" . | fromYaml).s3).endpoint | default "https://" -}}
{{- $port := regexFind ":[0-9]+/?$" $endpoint | trimPrefix ":" | trimSuffix "/" | default (ternary "80" "443" (hasPrefix "http://" $endpoint)) -}}
{{- .Values.networkPolicy.s3Ports | default (list (int $port)) | toJson -}}
{{- end -}}
