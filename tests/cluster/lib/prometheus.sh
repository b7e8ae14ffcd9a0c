# A Prometheus beside the tests: it reads the metrics of gateways and controllers, and evaluates the project's rules. In the end
# tests/prometheus/live.py asks it whether all was there.

# start_prometheus: for the cluster of KUBECONFIG, whose pods are reached from here. Sets PROMETHEUS, its address.
start_prometheus() {
  local port
  prometheus_folder="$(mktemp -d)"
  port="$(python3 -c 'import socket; it = socket.create_server(("127.0.0.1", 0)); print(it.getsockname()[1])')"
  PROMETHEUS="http://127.0.0.1:$port"
  prometheus_settings >"$prometheus_folder/settings.yaml"
  tell_targets
  promtool check config "$prometheus_folder/settings.yaml" >"$prometheus_folder/log" 2>&1 || { cat "$prometheus_folder/log" >&2; return 1; }
  while sleep 2; do tell_targets; done >/dev/null 2>&1 9>&- &
  prometheus_parts=($!)
  prometheus --config.file "$prometheus_folder/settings.yaml" --storage.tsdb.path "$prometheus_folder/data" \
    --web.listen-address "127.0.0.1:$port" --log.level warn >"$prometheus_folder/log" 2>&1 </dev/null 9>&- &
  prometheus_parts+=($!)
  wait_for "Prometheus" promtool query instant "$PROMETHEUS" "vector(1)" || { cat "$prometheus_folder/log" >&2; return 1; }
}

stop_prometheus() {
  [[ -n "${prometheus_folder:-}" ]] || return 0
  ((${#prometheus_parts[@]} == 0)) || { kill "${prometheus_parts[@]}" && wait "${prometheus_parts[@]}"; } 2>/dev/null || true
  rm -rf "$prometheus_folder"
  prometheus_folder='' prometheus_parts=()
}
prometheus_parts=()
# Whoever sources this is in tests/cluster.
RULES="$(cd ../../deploy/prometheus && pwd)"

# prometheus_settings: from a file, as Debian's Prometheus does not ask Kubernetes itself.
prometheus_settings() {
  cat <<END
global: {scrape_interval: 5s, scrape_timeout: 4s, evaluation_interval: 5s}
rule_files: ["$RULES/rules.yaml", "$RULES/alerts.yaml"]
scrape_configs:
- job_name: kernelbox
  file_sd_configs: [{files: ["$prometheus_folder/targets.yaml"]}]
END
}

# tell_targets: the pods behind the services' ports for it. Jobs are called as the chart's ServiceMonitors call them. While the API server does
# not answer, they are the ones of before.
tell_targets() {
  # shellcheck disable=SC2016 # The variables are the template's.
  local new="$prometheus_folder/new" CALL_LIMIT=5 template='
{{- range .items}}{{$service := index .metadata.labels "kubernetes.io/service-name"}}{{$endpoints := .endpoints}}
{{- range $port := .ports}}{{if eq $port.name "admin"}}{{range $endpoints}}
- targets: ["{{index .addresses 0}}:{{$port.port}}"]
  labels: {job: {{$service}}, namespace: kernelbox, pod: {{.targetRef.name}}}
{{- end}}{{end}}{{end}}{{end}}
'
  kubectl get endpointslices --namespace kernelbox --output "go-template=$template" >"$new" && mv "$new" "$prometheus_folder/targets.yaml"
}
