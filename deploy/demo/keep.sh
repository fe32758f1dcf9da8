#!/usr/bin/env bash
# keep.sh LOG COMMAND...: runs a program and starts it again a second after it ends, as systemd's
# Restart=always would. SIGTERM ends the program and the loop. Beside LOG stands the program's pid.
log=$1; shift
trap 'kill -TERM "$child" 2>/dev/null; wait "$child"; exit 0' TERM
while true; do
  "$@" >> "$log" 2>&1 &
  child=$!
  echo "$child" > "${log%.log}.pid"
  wait "$child"
  code=$?
  echo "$(date -u +%FT%TZ) ended with code $code, starting it again" >> "$log"
  sleep 1 & wait $!
done
