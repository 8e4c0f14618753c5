"""Whether the model hub can be reached, asked once and quickly.

huggingface_hub asks for each file anew, six times and longer each time: without a network that is
half a minute a file, and as many lines on the screen.
"""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request

from huggingface_hub import constants, is_offline_mode

_SECONDS = 5


def why_unreachable() -> str | None:
    """Why nothing can be fetched from the hub; None if something answers there, whatever it says."""
    if is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    if "all" in urllib.request.getproxies():  # maybe SOCKS, of which Python by itself knows nothing
        return None
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_SECONDS).close()
    except urllib.error.HTTPError:
        return None
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(
            reason, ssl.SSLError
        ):  # it answers; huggingface_hub has certificates of its own
            return None
        return f"the hub [{constants.ENDPOINT}] cannot be reached ({reason})"
    return None
