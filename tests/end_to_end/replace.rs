//! Coordinators that lose their disks in the middle of a rotation, replaced by the verbs that an operator would use: real
//! processes, until none of those is left with which the cluster was founded.

use crate::by_hand::{commands, run};

/// What follows the farm by hand once it runs: the rotation is held, replicas go and come, and it completes.
const STORY: &str = r#"
keyturn key export --config node-1/agent.toml --out current.bundle --password-file password
keyturn key generate --farm demo --out new.bundle --password-file password
keyturn rotation plan --hold-at verify
keyturn rotation start --bundle new.bundle --current-bundle current.bundle --password-file password --yes &
starter=$!
until keyturn rotation status -o json | grep -q '"paused": true'; do sleep 0.2; done

role() { keyturn coordinator list "${@:2}" | awk -v role="$1" '$3 == role { print $1; exit }'; }
lose() { kill -9 "$(cat "coordinator-$1/pid")"; rm -rf "coordinator-$1/data"; }
join() {
  keyturn pki issue coordinator "$1" --host 127.0.0.1 --dir pki
  mkdir -p "coordinator-$1"
  cat >"coordinator-$1/coordinator.toml" <<TOML
id = $1
join = true
farm = "demo"
listen = "127.0.0.1:700$1"
data_dir = "data"

[tls]
ca = "../pki/ca.pem"
certificate = "../pki/coordinator-$1.pem"
key = "../pki/coordinator-$1.key"
TOML
  keyturn coordinator --config "coordinator-$1/coordinator.toml" 2>"coordinator-$1/log" & echo $! >"coordinator-$1/pid"
}
await() { for _ in $(seq 600); do if "$@"; then return 0; fi; sleep 0.1; done; "$@"; }
reached() { : >/dev/tcp/127.0.0.1/"$1"; }
led() { leader="$(role leader $now)" && [ -n "$leader" ]; }

# A follower's disk is gone while the rotation is under way.
lost="$(role voter)"
lose "$lost"
join 4
await reached 7004
keyturn coordinator replace "$lost" 4=https://127.0.0.1:7004
keyturn coordinator replace "$lost" 4=https://127.0.0.1:7004
keyturn rotation resume
wait "$starter"
keyturn rotation status -o json | grep -q '"completed"'

# The leader goes, and then the last of the first three: each time two of three are left.
read -r next last <<<"$(echo 1 2 3 | tr ' ' '\n' | grep -v "$lost" | paste -sd ' ')"
if [ "$(role leader)" = "$last" ]; then swapped="$next" next="$last" last="$swapped"; fi
lose "$next"
join 5
await reached 7005
keyturn coordinator replace "$next" 5=https://127.0.0.1:7005
keyturn coordinator list
kill -9 "$(cat "coordinator-$last/pid")"
now="--coordinators https://127.0.0.1:7004,https://127.0.0.1:7005,https://127.0.0.1:700$last"
await keyturn node list $now
keyturn rotation status -o json $now | grep -q '"completed"'

# The last one comes back after it was removed: it says so, and disturbs nobody.
keyturn coordinator remove "$last" $now
keyturn coordinator --config "coordinator-$last/coordinator.toml" 2>"coordinator-$last/log" &
await grep -q "was removed from the cluster" "coordinator-$last/log"
await led
[ "$leader" != "$last" ]
keyturn node list $now
echo "the cluster lives"
"#;

#[test]
fn coordinators_that_lose_their_disks_are_replaced_during_a_rotation_until_none_of_the_first_is_left() {
    let page = commands("sqlite");
    let (farm, _) = page.split_once("keyturn key export").expect("the farm runs before its first rotation");
    let started = r#"2>"coordinator-$i/log" &"#;
    assert!(farm.contains(started), "the page starts its coordinators so");
    let farm = farm.replace(started, &format!(r#"{started} echo $! >"coordinator-$i/pid""#));
    let said = run(&format!("{farm}{STORY}"));
    assert!(said.contains("the cluster lives"), "{said}");
}
