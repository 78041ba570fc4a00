#!/bin/sh
# Makes sure the browser tests have a Chromium: one found on the machine, else installed with apt when we are root.
# Never fails: without a browser it says so loudly, and those tests skip with the same reason.
# STEELYARD_CHROMIUM names one outright.

found() {
    for name in "$STEELYARD_CHROMIUM" chromium chromium-browser google-chrome google-chrome-stable \
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" \
        "/Applications/Chromium.app/Contents/MacOS/Chromium"; do
        [ -n "$name" ] && command -v "$name" >/dev/null 2>&1 && return 0
    done
    return 1
}

found && exit 0
reason="not root"
if [ "$(id -u)" = 0 ]; then
    reason="no apt-get"
    if command -v apt-get >/dev/null 2>&1; then
        echo "Installing Chromium for the browser tests …"
        export DEBIAN_FRONTEND=noninteractive
        apt-get -qq update >/dev/null 2>&1
        apt-get -qq install -y --no-install-recommends chromium >/dev/null 2>&1
        found && exit 0
        reason="apt-get could not install it"
    fi
fi
echo "********************************************************************************" >&2
echo "NO CHROMIUM ($reason): the browser tests will be SKIPPED." >&2
echo "Install it (Debian: apt-get install chromium) or set STEELYARD_CHROMIUM=/path/to/it." >&2
echo "********************************************************************************" >&2
exit 0
