"""The routes of the double of Vast: what each question does, and the vendor's words for refusing it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tests.doubles.cloud import Asked, Reply
from tests.doubles.vast_box import Box
from tests.doubles.vast_lan import ROUTES as LAN_ROUTES
from tests.doubles.vast_lan import network_refusal, refusal
from tests.doubles.vast_market import BadQuery, found

if TYPE_CHECKING:
    from tests.doubles.vast_cloud import VastCloud

CREATE = r"^/api/v0/asks/\d+/$"
ONE = r"^/api/v0/instances/\d+/$"
KEYS = r"^/api/v0/instances/\d+/ssh/$"
THRESHOLDS = (
    ("search", "POST", r"^/api/v0/bundles/$", 6.0),
    ("create", "PUT", CREATE, 4.5),
    ("list", "GET", r"^/api/v1/instances/$", 1.0),
    ("show", "GET", ONE, 2.0),
    ("destroy", "DELETE", ONE, 3.0),
    ("manage", "PUT", ONE, 1.0),
    ("ssh", "POST", KEYS, 1.0),
)
"""Seconds between calls, as published."""
PAGE = 25
LONGEST_LABEL, LONGEST_MANAGED_LABEL, LONGEST_IMAGE, LONGEST_ONSTART, LEAST_DISK = 256, 1024, 1024, 4096, 8
CREATE_FIELDS = {
    *("client_id", "image", "disk", "label", "runtype", "env", "onstart", "args", "args_str", "price", "force"),
    *("cancel_unavail", "target_state", "python_utf8", "lang_utf8", "use_jupyter_lab", "jupyter_dir", "image_login"),
    *("extra", "user", "template_hash_id", "template_id", "volume_info"),
}
RUNTYPES = {"ssh_direc", "ssh_direct", "ssh_proxy", "ssh", "jupyter_direc", "jupyter_direct", "jupyter_proxy", "args"}


def too_frequent(threshold: float) -> list[Reply]:
    """429 in the vendor's three ways."""
    text = "API requests too frequent"
    return [
        Reply(429, f"{text}: endpoint threshold={threshold}"),
        Reply(429, {"detail": f"{text} endpoint threshold={threshold}"}),
        Reply(429, {"success": False, "error": "rate_limit_exceeded", "msg": text}, {"Retry-After": str(threshold)}),
    ]


def answer(vast: VastCloud, asked: Asked) -> Reply:
    """What Vast says. A path without its last slash is sent elsewhere, as the real one does."""
    if not asked.path.endswith("/"):
        return Reply(302, "", {"Location": f"{vast.url}{asked.path}/"})
    for method, pattern, route in ROUTES:
        match = re.fullmatch(pattern, asked.path)
        if match and method == asked.method:
            refused = _unauthorized(vast, asked, match)
            return refused or route(vast, asked, *match.groups())
    return refusal(404, "not_found", f"no such route: {asked.method} {asked.path}")


def _unauthorized(vast: VastCloud, asked: Asked, match: re.Match[str]) -> Reply | None:
    """The account's key opens everything; an instance's own key that instance and nothing else."""
    given = asked.headers.get("authorization", "").removeprefix("Bearer ")
    if "api_key" in asked.query:
        return refusal(400, "invalid_args", "the key belongs into a header")
    if given == vast.key:
        return None
    own = vast.boxes.get(int(match[1])) if match.groups() and match[1].isdigit() else None
    if own is not None and given == own.key and re.fullmatch(ONE, asked.path):
        return None
    if any(given == box.key for box in vast.boxes.values()):
        return refusal(403, "not_authorized", "this key may not do that")
    if asked.path == "/api/v0/bundles/":
        return Reply(404, {"error": "invalid_args", "msg": "Invalid user key"})
    return refusal(401, "auth_error", "Invalid user key")


def _whoami(vast: VastCloud, asked: Asked) -> Reply:
    credit = vast.credit - vast.meter.read(vast.time.now())
    return Reply(200, {"id": 7, "email": "a@example.org", "credit": credit, "balance": credit, "ssh_key": ""})


def _gpu_names(vast: VastCloud, asked: Asked) -> Reply:
    return Reply(200, {"gpu_names": sorted({row["gpu_name"] for row in vast.market})})


def _search(vast: VastCloud, asked: Asked) -> Reply:
    return _found(vast, asked.body)


def _search_new(vast: VastCloud, asked: Asked) -> Reply:
    return _found(vast, asked.body.get("q", {}))


def _found(vast: VastCloud, query: Mapping[str, Any]) -> Reply:
    rented = {box.ask["id"] for box in vast.boxes.values() if not box.destroyed}
    rows = [row | {"rented": row["rented"] or row["id"] in rented} for row in vast.market]
    try:
        return Reply(200, {"offers": found(rows, query)})
    except BadQuery as error:
        return Reply(400, {"error": "invalid_request", "msg": str(error)})


def _create(vast: VastCloud, asked: Asked, number: str) -> Reply:
    ask_id, body = int(number), asked.body
    wrong = _wrong_request(body)
    if wrong:
        return refusal(400, wrong[0], f"error 400/3467: {wrong[1]}", ask_id=ask_id)
    row = next((row for row in vast.market if row["id"] == ask_id), None)
    rented = any(box.ask["id"] == ask_id and not box.destroyed for box in vast.boxes.values())
    if row is None or rented:
        words = f"error 404/3603: no_such_ask Instance type by id {ask_id} is not available."
        return refusal(404, "invalid_args", words, ask_id=ask_id)
    if vast.meter.total >= vast.credit:
        return refusal(400, "missing_billing", "error 400: missing_billing add credit first", ask_id=ask_id)
    if told := network_refusal(vast, body, row):
        return refusal(400, "invalid_args", f"error 400/3467: {told}", ask_id=ask_id)
    price = body.get("price")
    too_low = price is not None and price < row["min_bid"]
    if too_low or vast.errs_with_contract:
        vast.errs_with_contract -= 0 if too_low else 1
        box = vast.new_box(row, body)
        box.stop(vast.time.now(), vast.meter)
        return refusal(400, "invalid_price", "error 400: the bid is too low to start", new_contract=box.instance_id)
    box = vast.new_box(row, body)
    return Reply(200, {"success": True, "new_contract": box.instance_id, "instance_api_key": box.key})


def _wrong_request(body: Any) -> tuple[str, str] | None:
    """An error word and its explanation."""
    if not isinstance(body, dict):
        return "invalid_args", "no JSON object"
    unknown = set(body) - CREATE_FIELDS
    price = body.get("price")
    checks = {
        f"unknown fields {sorted(unknown)}": bool(unknown),
        "image is missing or too long": not 0 < len(body.get("image") or "") <= LONGEST_IMAGE,
        "env must be an object": not isinstance(body.get("env") or {}, dict),
        "disk must be at least 8": float(body.get("disk") or 0) < LEAST_DISK,
        "onstart is too long": len(body.get("onstart") or "") + len(str(body.get("args") or "")) > LONGEST_ONSTART,
        "unknown runtype": not set((body.get("runtype") or "ssh_proxy").split()) <= RUNTYPES,
    }
    wrong = next((words for words, is_so in checks.items() if is_so), None)
    if wrong:
        return "invalid_args", wrong
    if len(body.get("label") or "") > LONGEST_LABEL:
        return "label_too_long", "label_too_long at most 256"
    if price is not None and not 0.001 <= price <= 128:
        return "invalid_price", "price must be 0.001 to 128"
    return None


def _visible(vast: VastCloud) -> list[Box]:
    """What the lists show, an end that has not arrived there yet included."""
    shown = []
    for box in vast.boxes.values():
        if not box.destroyed:
            shown.append(box)
        elif box.lingering > 0:
            box.lingering -= 1
            shown.append(box)
    return shown


def _list(vast: VastCloud, asked: Asked) -> Reply:
    if not vast.has_v1:
        return refusal(404, "not_found", "no such route")
    try:
        filters = json.loads(asked.query.get("select_filters") or "{}")
        limit = min(PAGE, int(asked.query.get("limit") or PAGE))
        after = int(asked.query.get("after_token") or 0)
    except ValueError:
        return Reply(400, {"error": "invalid_token", "msg": "Error in query parameters"})
    unknown = set(filters) - {"label", "id", "machine_id"}
    if unknown:
        words = f"Error in query parameters: {min(unknown)} is not a valid search key"
        return Reply(400, {"error": "invalid_request", "msg": words})
    boxes = _visible(vast)
    rows = [box.row(vast.time.now(), vast.dead_port) for box in boxes]
    rows = [row for row in rows if all(row[name] in _wanted(test) for name, test in filters.items())]
    rest = sorted((row for row in rows if row["id"] > after), key=lambda row: row["id"])
    page = rest[:limit]
    labels: dict[str, int] = {}
    for row in rows:
        labels[row["label"]] = labels.get(row["label"], 0) + 1
    token = str(page[-1]["id"]) if len(rest) > limit else None
    return Reply(
        200,
        {
            "success": True,
            "instances_found": len(page),
            "total_instances": len(rows),
            "label_counts": labels,
            "next_token": token,
            "instances": page,
        },
    )


def _wanted(test: Any) -> list[Any]:
    return test["in"] if "in" in test else [test["eq"]]


def _old_list(vast: VastCloud, asked: Asked) -> Reply:
    rows = [box.row(vast.time.now(), vast.dead_port) for box in _visible(vast)]
    return Reply(200, {"instances_found": len(rows), "instances": rows})


def _show(vast: VastCloud, asked: Asked, number: str) -> Reply:
    box = vast.boxes.get(int(number))
    if box is not None and box.shows:
        scripted = box.shows.pop(0)
        return scripted if isinstance(scripted, Reply) else Reply(200, {"instances": None})
    if box is None or (box.destroyed and box.lingering <= 0):
        return Reply(200, {"instances": None})
    if box.destroyed:
        box.lingering -= 1
    return Reply(200, {"instances": box.row(vast.time.now(), vast.dead_port)})


def _destroy(vast: VastCloud, asked: Asked, number: str) -> Reply:
    box = vast.boxes.get(int(number))
    if box is None or box.destroyed:
        return refusal(404, "no_such_instance", f"error 404: no_such_instance {number} not found")
    box.destroy(vast.time.now(), vast.meter)
    return Reply(200, {"success": True, "msg": f"instance {number} destroyed"})


def _manage(vast: VastCloud, asked: Asked, number: str) -> Reply:
    box = _living(vast, number)
    if box is None:
        return refusal(404, "no_such_instance", f"error 404: no_such_instance {number} not found")
    label, state = asked.body.get("label"), asked.body.get("state")
    if label is not None:
        if len(label) > LONGEST_MANAGED_LABEL:
            return refusal(400, "label_too_long", "label_too_long at most 1024")
        box.label = label
    if state == "stopped":
        vast.stop(number)
    elif state == "running":
        vast.resume(number)
    return Reply(200, {"success": True})


def _bid(vast: VastCloud, asked: Asked, number: str) -> Reply:
    box = _living(vast, number)
    if box is None:
        return refusal(404, "no_such_instance", f"error 404: no_such_instance {number} not found")
    box.request = {**box.request, "price": asked.body.get("price")}
    if vast.meter.of(box.name).gpu_per_hour:
        rates = {"gpu_per_hour": box.gpu_per_hour, "disk_per_hour": box.disk_per_hour}
        vast.meter.set(box.name, vast.time.now(), **rates)
    return Reply(200, {"success": True})


def _attach(vast: VastCloud, asked: Asked, number: str) -> Reply:
    box = _living(vast, number)
    key = asked.body.get("ssh_key") or ""
    if box is None:
        return refusal(404, "no_such_instance", f"error 404: no_such_instance {number} not found")
    if not re.match(r"(ssh-|ecdsa-)\S+ \S+", key):
        return refusal(400, "invalid_args", "that is no SSH key")
    if key in box.keys:
        return refusal(400, "invalid_args", "SSH key already associated with instance.")
    box.keys.append(key)
    if box.machine is not None:
        box.machine.authorize(key)
    return Reply(200, {"success": True, "msg": "SSH key added to instance."})


def _attached(vast: VastCloud, asked: Asked, number: str) -> Reply:
    box = _living(vast, number)
    keys = [] if box is None else [{"id": index, "public_key": key} for index, key in enumerate(box.keys)]
    return Reply(200, {"success": True, "ssh_keys": json.dumps(keys)})  # JSON in JSON, as the real one has it


def _account_keys(vast: VastCloud, asked: Asked) -> Reply:
    rows = [{"id": index, "user_id": 7, "key": key} for index, key in enumerate(vast.account_keys)]
    return Reply(200, rows)


def _add_account_key(vast: VastCloud, asked: Asked) -> Reply:
    vast.account_keys.append(asked.body["ssh_key"])
    row = {"id": len(vast.account_keys) - 1, "user_id": 7, "public_key": asked.body["ssh_key"]}
    return Reply(200, {"success": True, "key": row})


def _living(vast: VastCloud, number: str) -> Box | None:
    box = vast.boxes.get(int(number))
    return None if box is None or box.destroyed else box


ROUTES: tuple[tuple[str, str, Callable[..., Reply]], ...] = (
    ("GET", r"/api/v0/users/current/", _whoami),
    ("GET", r"/api/v0/gpu_names/unique/", _gpu_names),
    ("POST", r"/api/v0/bundles/", _search),
    ("PUT", r"/api/v0/search/asks/", _search_new),
    ("PUT", r"/api/v0/asks/(\d+)/", _create),
    ("GET", r"/api/v1/instances/", _list),
    ("GET", r"/api/v0/instances/", _old_list),
    ("GET", r"/api/v0/instances/(\d+)/", _show),
    ("DELETE", r"/api/v0/instances/(\d+)/", _destroy),
    ("PUT", r"/api/v0/instances/(\d+)/", _manage),
    ("PUT", r"/api/v0/instances/bid_price/(\d+)/", _bid),
    ("POST", r"/api/v0/instances/(\d+)/ssh/", _attach),
    ("GET", r"/api/v0/instances/(\d+)/ssh/", _attached),
    ("GET", r"/api/v0/ssh/", _account_keys),
    ("POST", r"/api/v0/ssh/", _add_account_key),
    *LAN_ROUTES,
)
