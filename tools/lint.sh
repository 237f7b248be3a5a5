#!/usr/bin/env bash
# What the compiler and luacheck do not see: layers, file length, formatting.
#
#   tools/lint.sh
# shellcheck disable=SC2086,SC2116  # echo folds the lists into one line
set -u
bad=0
say() { echo "lint: $*" >&2; bad=1; }

# A file holds one subject: 600 lines at most.
while read -r lines file; do
  [ "$lines" -le 600 ] || say "$file has $lines lines (600 at most): split it"
done < <(git ls-files -co --exclude-standard '*.c' '*.h' '*.lua' '*.py' | xargs -r wc -l | grep -v ' total$')

# The pure layer never sees Lua; the core sees no module.
pure="decimal wide exact scan moment batch decode_plan decode delta notes store spool
      spool_file spool_read upsert
      sqltext clock_core metrics_core metrics_text"
core="fail field handle opts call interrupt state box"
for unit in $pure; do
  for file in host/$unit.c host/$unit.h; do
    [ -e "$file" ] || continue
    ! grep -nE '#include [<"](lua|lauxlib|lualib)\.h' "$file" || say "$file is pure and includes Lua"
    while read -r header; do
      [[ " $(echo $pure failpoint) " == *" $header "* ]] || say "$file is pure and includes $header.h"
    done < <(sed -n 's/^#include "\(.*\)\.h".*/\1/p' "$file" | sed 's/^metrics_impl$/metrics_core/; s/^spool_impl$/spool/')
  done
done
for unit in $core; do
  while read -r header; do
    [[ " $(echo $core batch mono failpoint) " == *" $header "* ]] || say "host/$unit.c is core and includes $header.h"
  done < <(sed -n 's/^#include "\(.*\)\.h".*/\1/p' "host/$unit.c")
done

# Modules do not include each other: a header named after a module's first word
# belongs to that module alone.
for module in kafka mysql http process metrics; do
  while read -r file; do
    case $file in
    host/"$module"*) ;;
    *) say "$file includes a private header of host.$module" ;;
    esac
  done < <(grep -lE "#include \"${module}[a-z_]*\.h\"" host/*.c |
    while read -r f; do
      grep -qE "#include \"${module}(_core)?\.h\"" "$f" && [ "$module" = metrics ] && continue
      [ "$module" = process ] && continue
      echo "$f"
    done)
done

# In Lua: libraries do not require scripts or tasks, scripts not the host.
! grep -nE 'require *\(?"(scripts|runbook)' -r lib || say "lib requires a script"

# Python: what does not compile, is never used, or was never defined.
if command -v pyflakes3 >/dev/null; then
  git ls-files -co --exclude-standard '*.py' | xargs -r pyflakes3 || say "pyflakes3 has objections"
else
  say "pyflakes3 is missing"
fi

if command -v clang-format >/dev/null; then
  for file in host/*.[ch] spec/c/*.[ch] bench/*.[ch] fuzz/*.[ch] tools/*.c; do
    [ -e "$file" ] || continue
    clang-format --dry-run -Werror "$file" >/dev/null 2>&1 || say "$file is not formatted: make format"
  done
else
  say "clang-format is missing"
fi
if command -v shellcheck >/dev/null; then
  shellcheck tools/*.sh .ci/run || bad=1
fi
# Tabs and trailing blanks.
git ls-files -co --exclude-standard '*.lua' '*.c' '*.h' '*.sh' '*.sql' '*.py' |
  xargs -r grep -nP '[ \t]+$|\t' && say "tabs or trailing blanks"
exit "$bad"
