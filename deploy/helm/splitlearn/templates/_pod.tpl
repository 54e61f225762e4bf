{{/* What the pods of client and trunk have in common. Argument of all: root, values (of the client, or of a stage). */}}

{{/* Where and as whom the pod runs, and how long it may take to stop. */}}
{{- define "splitlearn.podSpec" -}}
serviceAccountName: {{ include "splitlearn.serviceAccountName" .root }}
automountServiceAccountToken: false
# else a Service called splitlearn-trunk would set SPLITLEARN_TRUNK_PORT, which is a setting
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
# preStop, then the running work, then the rest of the process's end
terminationGracePeriodSeconds: {{ add .values.preStopSeconds .values.shutdownTimeout 15 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .values.topologySpread }}
{{- if .enabled }}
topologySpreadConstraints:
  - maxSkew: {{ .maxSkew }}
    topologyKey: {{ .topologyKey }}
    whenUnsatisfiable: {{ .whenUnsatisfiable }}
    labelSelector:
      matchLabels: {{- include "splitlearn.selector" $ | nindent 8 }}
{{- end }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "splitlearn.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* Time for endpoints, DNS and clients to learn that the pod goes: nothing is refused meanwhile. */}}
{{- define "splitlearn.preStop" -}}
{{- if .values.preStopSeconds -}}
lifecycle:
  preStop:
    exec:
      command: ["sleep", {{ .values.preStopSeconds | quote }}]
{{- end }}
{{- end -}}

{{/* Flags that client and trunk share. */}}
{{- define "splitlearn.commonArgs" -}}
- "--host={{ .root.Values.listenHost }}"
{{- with .root.Values.dtype }}
- "--dtype={{ . }}"
{{- end }}
- "--quantization={{ .values.quantization }}"
- "--kv-cache-dtype={{ .values.kvCacheDtype }}"
{{- with .values.threads }}
- "--threads={{ . }}"
{{- end }}
{{- with .values.kvCacheMemory }}
- "--kv-cache-memory-bytes={{ . }}"
{{- end }}
- "--shutdown-timeout={{ .values.shutdownTimeout }}"
{{- if .tlsSecretName }}
- --tls-cert=/etc/splitlearn/tls/tls.crt
- --tls-key=/etc/splitlearn/tls/tls.key
- --tls-ca=/etc/splitlearn/tls/ca.crt
{{- end }}
{{- with .values.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "splitlearn.commonMounts" -}}
- name: weights
  mountPath: /weights
  readOnly: true
  {{- with .values.weights.subPath }}
  subPath: {{ . | quote }}
  {{- end }}
- name: tmp
  mountPath: /tmp
{{- if .tlsSecretName }}
- name: tls
  mountPath: /etc/splitlearn/tls
  readOnly: true
{{- end }}
{{- if .root.Values.trunkTokens.secretName }}
- name: trunk-tokens
  mountPath: /etc/splitlearn/trunk-tokens
  readOnly: true
{{- end }}
{{- end -}}

{{- define "splitlearn.commonVolumes" -}}
- name: weights
  {{- with .values.weights }}
  {{- if eq .source "persistentVolumeClaim" }}
  persistentVolumeClaim:
    claimName: {{ .reference | quote }}
    readOnly: true
  {{- else if eq .source "hostPath" }}
  {{- if not (hasPrefix "/" .reference) }}{{ fail (printf "weights: hostPath %q is not an absolute path" .reference) }}{{ end }}
  hostPath:
    path: {{ .reference | quote }}
    type: Directory
  {{- else }}
  image:
    reference: {{ .reference | quote }}
    pullPolicy: IfNotPresent
  {{- end }}
  {{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 1Gi
{{- with .tlsSecretName }}
- name: tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- with .root.Values.trunkTokens.secretName }}
- name: trunk-tokens
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end -}}
