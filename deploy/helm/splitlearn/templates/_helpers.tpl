{{- define "splitlearn.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The prefix of all names: short enough for "-trunk-", a stage's name and a pod's number behind it. */}}
{{- define "splitlearn.fullname" -}}
{{- $name := include "splitlearn.name" . -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- default $full .Values.fullnameOverride | trunc 30 | trimSuffix "-" -}}
{{- end -}}

{{- define "splitlearn.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "splitlearn.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Labels that select the pods of one component; they never change. The stage is named for trunks alone.
     Arguments: root, component, and perhaps stage (its name). */}}
{{- define "splitlearn.selector" -}}
app.kubernetes.io/name: {{ include "splitlearn.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .stage }}
splitlearn-stage: {{ . }}
{{- end }}
{{- end -}}

{{/* All labels of an object. Arguments: as for splitlearn.selector. */}}
{{- define "splitlearn.labels" -}}
{{ include "splitlearn.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of what belongs to no component. Argument: root. */}}
{{- define "splitlearn.releaseLabels" -}}
app.kubernetes.io/name: {{ include "splitlearn.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The name of a stage's StatefulSet and of its headless Service. Arguments: root, stage (its name). */}}
{{- define "splitlearn.stageName" -}}
{{ include "splitlearn.fullname" .root }}-trunk-{{ .stage }}
{{- end -}}

{{/* The map `base` with the values of `over`, as YAML; maps are merged key by key. Unlike mergeOverwrite, 0, false and
     empty values of `over` count too. */}}
{{- define "splitlearn.override" -}}
{{- $merged := deepCopy .base -}}
{{- range $key, $value := .over -}}
  {{- $old := get $merged $key -}}
  {{- if and (kindIs "map" $value) (kindIs "map" $old) -}}
    {{- $value = include "splitlearn.override" (dict "base" $old "over" $value) | fromYaml -}}
  {{- end -}}
  {{- $_ := set $merged $key $value -}}
{{- end -}}
{{- toYaml $merged -}}
{{- end -}}

{{/* The stages with the defaults of `trunk`, as YAML under `stages`. Refuses stages that do not join. */}}
{{- define "splitlearn.stages" -}}
{{- $stages := list -}}
{{- $names := list -}}
{{- $end := "" -}}
{{- range $index, $given := .Values.trunk.stages -}}
  {{- if has $given.name $names -}}
    {{- fail (printf "trunk.stages: two stages are called %q" $given.name) -}}
  {{- end -}}
  {{- $names = append $names $given.name -}}
  {{- $layers := default "" $given.layers -}}
  {{- if and (gt (len $.Values.trunk.stages) 1) (not $layers) -}}
    {{- fail (printf "trunk.stages: %q has no layers; each of several stages needs START-END" $given.name) -}}
  {{- end -}}
  {{- if $layers -}}
    {{- $bounds := splitList "-" $layers -}}
    {{- if ge (atoi (first $bounds)) (atoi (last $bounds)) -}}
      {{- fail (printf "trunk.stages: %q has no layer in %s" $given.name $layers) -}}
    {{- end -}}
    {{- if and $index (ne (first $bounds) $end) -}}
      {{- fail (printf "trunk.stages: %q begins with layer %s, but the stage before it ends before layer %s" $given.name (first $bounds) $end) -}}
    {{- end -}}
    {{- $end = last $bounds -}}
  {{- end -}}
  {{- $base := omit $.Values.trunk "stages" -}}
  {{- $stages = append $stages (include "splitlearn.override" (dict "base" $base "over" $given) | fromYaml) -}}
{{- end -}}
{{- toYaml (dict "stages" $stages) -}}
{{- end -}}

{{/* Layers of all stages together, START-END, or nothing if a single stage does not name them. */}}
{{- define "splitlearn.layers" -}}
{{- $first := default "" (first .Values.trunk.stages).layers -}}
{{- $last := default "" (last .Values.trunk.stages).layers -}}
{{- if $first -}}
{{ first (splitList "-" $first) }}-{{ last (splitList "-" $last) }}
{{- end -}}
{{- end -}}

{{/* Where the file of the trunks' tokens is, or nothing. Argument: root. */}}
{{- define "splitlearn.trunkTokensFile" -}}
{{- with .Values.trunkTokens -}}
{{- if .secretName -}}
/etc/splitlearn/trunk-tokens/{{ .key }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "splitlearn.image" -}}
image: {{ printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) | quote }}
imagePullPolicy: {{ .image.pullPolicy }}
{{- end -}}

{{- define "splitlearn.egressToDns" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}
