# The cgroups that hold the nodes' pods. They are the one thing that does not go with the namespaces.

# hierarchies: where cgroups are mounted: one place (v2), or one for each controller (v1).
hierarchies() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/mounts; }

make_cgroups() {
  local root
  while read -r root; do
    # Version 2 hands controllers down only where it is told to. Those that are off already fail one by one.
    if [[ -e $root/cgroup.controllers ]]; then
      local controller
      for controller in $(cat "$root/cgroup.controllers"); do
        echo "+$controller" >"$root/cgroup.subtree_control" || true
      done
    fi
    mkdir -p "$root/$NODE_CGROUP"
  done < <(hierarchies)
}

# cgroups_removed: fails while one of them still has a process that is ending.
cgroups_removed() {
  local root top="${NODE_CGROUP%%/*}" folder
  while read -r root; do
    [[ -d $root/$top ]] || continue
    while read -r folder; do rmdir "$folder" || return 1; done < <(find "$root/$top" -depth -type d)
  done < <(hierarchies)
}

remove_cgroups() { wait_for "the end of the cgroups ${NODE_CGROUP%%/*}" cgroups_removed; }
