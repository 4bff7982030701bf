#!/bin/sh
# Applies this folder to a running gateway, sends what GitHub sends, and shows what comes of it.
#
#   sh try-it.sh --data DIR [--tenant NAME]         DIR is the gateway's data folder, on this machine
#   sh try-it.sh --key-file FILE [--tenant NAME]    FILE holds an operator's key, or an admin key of the tenant
#
# The gateway is at WARDGATE_URL, by default http://127.0.0.1:8080. The tenant is `examples` unless --tenant names
# another one; if it does not exist, it is created. Needed are curl, openssl, python3 and the program wardgate, in the
# PATH or in target/debug of this repository.

set -eu
here=$(cd "$(dirname "$0")" && pwd)
url=${WARDGATE_URL:-http://127.0.0.1:8080}
unset WARDGATE_URL # wardgate reads every variable that begins with WARDGATE_ as a setting
PATH=$PATH:$here/../../target/debug
data='' key_file='' tenant=examples
while [ $# -ge 2 ]; do
  case $1 in
    --data) data=$2 ;;
    --key-file) key_file=$2 ;;
    --tenant) tenant=$2 ;;
    *) break ;;
  esac
  shift 2
done
if [ $# -ne 0 ] || [ -z "$data$key_file" ]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi

# Commands that manage the gateway, and those of them that are about the tenant.
manage() { wardgate "$@" --url "$url" --key-file "$key_file"; }
of_tenant() { manage "$@" --tenant "$tenant"; }
step() { printf '\n== %s\n' "$1"; }

work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
trap 'exit 130' INT TERM
if [ -n "$data" ]; then
  key_file=$work/operator.key
  wardgate key folder --data "$data" > "$key_file"
fi

step "Tenant $tenant, and its agent"
manage tenant list > "$work/tenants"
tenant_id() { awk -F '\t' -v name="$tenant" '$1 == name || $2 == name { print $1 }' "$work/tenants"; }
if [ -z "$(tenant_id)" ]; then
  manage tenant create "$tenant"
  manage tenant list > "$work/tenants"
fi
of_tenant agent apply "$here/agent.toml" | tee "$work/agent"
[ -s "$work/agent" ]

# A key to call agents and to read tasks with. It ends with this script.
key_name="try-it $(openssl rand -hex 8)"
key=$(of_tenant key create --name "$key_name")
key_id=$(of_tenant key list | awk -F '\t' -v name="$key_name" '$3 == name { print $1 }')
trap 'of_tenant key revoke "$key_id" > "$work/revoked"; rm -r "$work"' EXIT

# Prints the status, the headers that say what became of a request, and the answer.
send() {
  curl -sS -D "$work/head" -o "$work/answer" "$@"
  tr -d '\r' < "$work/head" | grep -i -e '^HTTP/' -e '^x-task-id:' -e '^idempotent-replayed:'
  cat "$work/answer"
  echo
}
# The task that the last request was answered with.
sent_task() { tr -d '\r' < "$work/head" | sed -n 's/^x-task-id: //p'; }
api() { curl -sS -H "x-api-key: $key" "$url$1"; }
# The task's events come until it has ended.
follow() { api "/$(tenant_id)/agent-execution/$1/events" | sed -n 's/^data: {"type":"\([a-z_]*\)".*/\1/p'; }
result() { api "/v1/tasks/$1" | python3 -c 'import json, sys; print(json.load(sys.stdin)["result"])'; }
trace() {
  api "/v1/tasks/$1/thread" | python3 -c '
import json, sys
for step in json.load(sys.stdin):
    mapping = step.get("mapping")
    shown = json.dumps(mapping["params"], ensure_ascii=False) if mapping else step.get("error")
    print(step["role"] + ": " + " ".join(step["content"].split())[:100])
    if shown:
        print("    " + shown)'
}

# What all examples begin with ends here.

step 'The secret that GitHub signs with, and the channel'
secret=$(openssl rand -hex 32)
printf '%s' "$secret" | of_tenant secret set github-webhook --use verify
of_tenant channel apply "$here/channel.toml"
hook=$(of_tenant channel list | awk -F '\t' '$1 == "triage" { print $2 }')

# Sends the issue as this event and under this id, signed with this secret, as GitHub does.
deliver() {
  signature=$(openssl dgst -sha256 -hmac "$3" -r < "$here/issue.json")
  send "$hook" -H 'content-type: application/json' -H "x-github-event: $1" -H "x-github-delivery: $2" \
    -H "x-hub-signature-256: sha256=${signature%% *}" --data-binary "@$here/issue.json"
}
new_id() { python3 -c 'import uuid; print(uuid.uuid4())'; }

step 'An issue was opened: acknowledged at once'
delivery=$(new_id)
deliver issues "$delivery" "$secret"
task=$(sent_task)

step 'What happened in the run'
follow "$task"

step 'Its result'
result "$task"

step 'The same delivery again: the same task, and no second run'
deliver issues "$delivery" "$secret"

step 'Signed with another secret: nothing is started'
deliver issues "$(new_id)" 'another secret'

step 'An event that channel.toml does not list: ignored'
deliver star "$(new_id)" "$secret"

step 'The trace'
trace "$task"
