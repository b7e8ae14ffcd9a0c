# A Prometheus beside the tests: it reads the metrics of gateways and controllers, and evaluates the project's rules. In the end
# tests/prometheus/live.py asks it whether all was there.

# start_prometheus: for the cluster of KUBECONFIG, whose pods are reached from here. Sets PROMETHEUS, its address.
start_prometheus() {
  local port
  prometheus_folder="$(mktemp -d)"
  port="$(python3 -c 'import socket; it = socket.create_server(("127.0.0.1", 0)); print(it.getsockname()[1])')"
  PROMETHEUS="http://127.0.0.1:$port"
  prometheus_settings >"$prometheus_folder/settings.yaml"
  promtool check config "$prometheus_folder/settings.yaml" >"$prometheus_folder/log" || { cat "$prometheus_folder/log" >&2; return 1; }
  prometheus --config.file "$prometheus_folder/settings.yaml" --storage.tsdb.path "$prometheus_folder/data" \
    --web.listen-address "127.0.0.1:$port" --log.level warn >"$prometheus_folder/log" 2>&1 </dev/null 9>&- &
  prometheus_pid=$!
  wait_for "Prometheus" promtool check ready --url "$PROMETHEUS" || { cat "$prometheus_folder/log" >&2; return 1; }
}

stop_prometheus() {
  [[ -n "${prometheus_folder:-}" ]] || return 0
  [[ -z "${prometheus_pid:-}" ]] || { kill "$prometheus_pid" && wait "$prometheus_pid"; } 2>/dev/null || true
  rm -rf "$prometheus_folder"
  prometheus_folder='' prometheus_pid=''
}

# prometheus_settings: jobs are called as the chart's ServiceMonitors call them.
prometheus_settings() {
  local rules
  rules="$(cd "${BASH_SOURCE[0]%/*}/../../../deploy/prometheus" && pwd)"
  cat <<END
global: {scrape_interval: 5s, scrape_timeout: 4s, evaluation_interval: 5s}
rule_files: ["$rules/rules.yaml", "$rules/alerts.yaml"]
scrape_configs:
- job_name: kernelbox
  kubernetes_sd_configs:
  - {role: endpointslice, kubeconfig_file: "$KUBECONFIG", namespaces: {names: [kernelbox]}}
  relabel_configs:
  - {action: keep, source_labels: [__meta_kubernetes_endpointslice_port_name], regex: admin}
  - {source_labels: [__meta_kubernetes_service_name], target_label: job}
  - {source_labels: [__meta_kubernetes_namespace], target_label: namespace}
  - {source_labels: [__meta_kubernetes_pod_name], target_label: pod}
END
}
