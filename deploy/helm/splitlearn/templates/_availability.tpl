{{/* Arguments of both: root, component, stage (of a trunk), values, name and kind of what has the replicas, and for the
     autoscaler waiting: the name of the metric that counts what waits. */}}

{{- define "splitlearn.podDisruptionBudget" -}}
{{- if .values.podDisruptionBudget.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  labels: {{- include "splitlearn.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ .values.podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels: {{- include "splitlearn.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{- define "splitlearn.autoscaler" -}}
{{- with .values.autoscaling }}
{{- if and .enabled (lt (int .maxReplicas) (int .minReplicas)) }}
{{- fail (printf "autoscaling of %s: maxReplicas is less than minReplicas" $.name) }}
{{- end }}
{{- if and .enabled (eq .kind "hpa") }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ $.name }}
  labels: {{- include "splitlearn.labels" $ | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: {{ $.kind }}
    name: {{ $.name }}
  minReplicas: {{ .minReplicas }}
  maxReplicas: {{ .maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ .cpuUtilization }}
  behavior:
    scaleDown:
      stabilizationWindowSeconds: {{ .cooldownSeconds }}
{{- else if .enabled }}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ $.name }}
  labels: {{- include "splitlearn.labels" $ | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: {{ $.kind }}
    name: {{ $.name }}
  minReplicaCount: {{ .minReplicas }}
  maxReplicaCount: {{ .maxReplicas }}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleDown:
          stabilizationWindowSeconds: {{ .cooldownSeconds }}
  triggers:
    - type: prometheus
      metricType: AverageValue
      metadata:
        serverAddress: {{ required (printf "autoscaling of %s: kind keda needs prometheusAddress" $.name) .prometheusAddress | quote }}
        # labels that metrics.serviceMonitor adds
        query: >-
          sum({{ $.waiting }}{namespace={{ $.root.Release.Namespace | quote }},
          app_kubernetes_io_instance={{ $.root.Release.Name | quote }}
          {{- with $.stage }}, splitlearn_stage={{ . | quote }}{{ end }}})
        threshold: {{ .waiting | quote }}
{{- end }}
{{- end }}
{{- end -}}
