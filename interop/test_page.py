"""The web page in a headless Chromium: what a person does there, with mouse and keyboard, and what they then see.

After each test nothing may have been complained about on the console, and nothing asked of another host.
"""

import base64
import json
import re
import urllib.error
import urllib.parse
import urllib.request

import pika
import pytest
from browser import open_browser

PHONE = (360, 740)
PLACES = [
    "Overview",
    "Connections",
    "Channels",
    "Exchanges",
    "Queues",
    "Shovels",
    "Policies",
    "Virtual hosts",
    "Users",
    "Definitions",
]
HOSTILE = [
    "<img src=x onerror=window.isHacked=1>",
    '"><script>window.isHacked=1</script>',
    "quotes ' \" ` & %2F /../ ?x#y",
    "javascript:window.isHacked=1",
    "snowman ☃ rabbit 🐇 right-to-left \u202e",
    "y" * 255,
]

# Where the middle of the visible element of a kind is that has this text in its first line, or as its label; scrolled into
# view.
FIND = """(kinds, text, within) => {
  const isShown = (each) => each.checkVisibility() && each.getClientRects().length > 0;
  const says = (each) => (each.getAttribute("aria-label") ?? each.innerText).trim().split("\\n")[0] === text;
  const root = [...document.querySelectorAll(within)].find(isShown);
  const found = root && [...root.querySelectorAll(kinds)].find((each) => isShown(each) && says(each) && !each.disabled);
  if (!found) return null;
  found.scrollIntoView({ block: "center", behavior: "instant" });
  const box = found.getClientRects()[0];
  return [box.x + box.width / 2, box.y + box.height / 2];
}"""

# The input, select or text area with that label, visible.
LABELLED = """(label, within) => [...document.querySelector(within).querySelectorAll("label")]
  .filter((each) => each.checkVisibility() && each.querySelector("span")?.firstChild?.textContent === label)
  .map((each) => each.querySelector("input, select, textarea"))[0]"""


class Page:
    """What a person can do with the page."""

    def __init__(self, tab, url):
        self.tab = tab
        self.url = url
        self.is_refusal_expected = False

    def open(self):
        """Loads the page."""
        self.tab.go(self.url)

    def reload(self):
        """Loads it again, at the same place."""
        self.tab.run("void (window.isOld = true)")
        self.tab.call("Page.reload")
        self.tab.until("document.readyState === 'complete' && !window.isOld")

    def log_in(self, user="guest", password="guest"):
        """Fills in the form, and waits for the overview."""
        self.open()
        self.submit_login(user, password)
        self.at("Overview")

    def submit_login(self, user, password):
        """Fills in the form of the login."""
        self.tab.until("document.querySelector('.login')")
        self.fill("User name", user, within=".login")
        self.fill("Password", password, within=".login")
        self.click("Log in", within=".login")

    def at(self, title):
        """Waits until a view with this title has its figures."""
        heading = json.dumps(title)
        self.tab.until(
            f"document.querySelector('h1')?.innerText === {heading} && !document.querySelector('main[data-state]')"
        )

    def go(self, place):
        """A place of the navigation."""
        self.click(place, within="nav", kinds="a")
        self.at(place)

    def visit(self, *parts, title=None):
        """A place by its address."""
        address = "#/" + "/".join(urllib.parse.quote(part, safe="") for part in parts)
        self.tab.run(f"void (location.hash = {json.dumps(address)})")
        self.at(title or parts[-1])

    def click(self, text, within="body", kinds="a, button, summary"):
        """Presses the mouse on what has this text, when it is there."""
        arguments = ", ".join(map(json.dumps, (kinds, text, within)))
        self.tab.until(f"({FIND})({arguments})")
        x, y = self.tab.run(f"({FIND})({arguments})")
        for kind in ("mousePressed", "mouseReleased"):
            self.tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def fill(self, label, value, within="main"):
        """Puts a value into the field with this label."""
        field = f"({LABELLED})({json.dumps(label)}, {json.dumps(within)})"
        self.tab.until(field)
        if self.tab.run(f"{field}.localName") == "select":
            self.tab.run(
                f"(({field}).value = {json.dumps(value)}, ({field}).dispatchEvent(new Event('change', {{bubbles: true}})))"
            )
            return
        self.tab.run(f"(({field}).focus(), ({field}).select())")
        self.tab.type(value)

    def agree(self, action):
        """Agrees to what the page asks before it acts."""
        self.click(action, within="dialog[open]")

    def sees(self, text, within="body"):
        """Waits until the page shows a text there."""
        parts = f"[...document.querySelectorAll({json.dumps(within)})]"
        self.tab.until(f"{parts}.some((each) => each.innerText.includes({json.dumps(text)}))")

    def fact(self, name, value):
        """Waits until the page says this of a name, in its lists of facts."""
        term = f"[...document.querySelectorAll('dt')].find((each) => each.innerText === {json.dumps(name)})"
        self.tab.until(f"{term}?.nextSibling.innerText === {json.dumps(value)}")

    def row(self, first, *figures):
        """Waits until a table has a row that begins so and has these cells."""
        cells = "[...each.cells].map((cell) => cell.innerText)"
        wanted = json.dumps([str(figure) for figure in figures])
        self.tab.until(
            f"[...document.querySelectorAll('tbody tr')].some((each) => {cells}[0] === {json.dumps(first)}"
            f" && {wanted}.every((figure) => {cells}.includes(figure)))"
        )

    def chart_moves(self, title):
        """Waits until a line of that chart has left the ground."""
        is_it = f"each.querySelector('figcaption').innerText === {json.dumps(title)}"
        chart = f"[...document.querySelectorAll('figure')].find((each) => {is_it})"
        self.tab.until(
            f"(() => {{ const {{ height }} = {chart}.querySelector('.line-1')?.getBBox() ?? {{}}; return height > 20; }})()"
        )


class Api:
    """The management API, for what a test needs around the page."""

    def __init__(self, address):
        self.address = address

    def __call__(self, method, *parts, body=None, user="guest", password="guest"):
        path = "/".join(urllib.parse.quote(part, safe="") for part in parts)
        credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers = {"authorization": f"Basic {credentials}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.address}/api/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            content = answer.read()
        return json.loads(content) if content else None


@pytest.fixture(scope="module")
def chromium():
    """A browser for all tests; each has a tab with storage of its own."""
    with open_browser() as browser:
        yield browser


@pytest.fixture
def page(chromium, broker):
    """A page in a tab of its own, not logged in. Fails if the console had complaints, or another host was asked."""
    tab = chromium.open_tab()
    page = Page(tab, f"http://{broker.management}/")
    yield page
    problems = [each for each in tab.problems if not (page.is_refusal_expected and re.search(r"status of 4\d\d", each))]
    strangers = [url for url in tab.requested if not url.startswith((page.url, f"blob:{page.url}", "data:"))]
    tab.close()
    assert problems == []
    assert strangers == []


@pytest.fixture
def api(broker):
    """The management API, as guest."""
    return Api(broker.management)


@pytest.fixture
def vhost(api, name):
    """A virtual host of the test's own, which guest may use."""
    vhost = name("vhost")
    api("PUT", "vhosts", vhost, body={})
    api("PUT", "permissions", vhost, "guest", body={"configure": ".*", "write": ".*", "read": ".*"})
    yield vhost
    api("DELETE", "vhosts", vhost)


@pytest.fixture
def user(api, name):
    """Makes users with the password "secret" and these tags."""
    made = []

    def make(tags):
        made.append(name("user"))
        api("PUT", "users", made[-1], body={"password": "secret", "tags": tags})
        return made[-1]

    yield make
    for each in made:
        api("DELETE", "users", each)


def test_a_wrong_password_is_refused_in_words_and_the_right_one_lets_in(page):
    page.is_refusal_expected = True
    page.open()
    page.submit_login("guest", "wrong")
    page.sees("Login failed", within="[role=alert]")
    page.fill("Password", "guest", within=".login")
    page.tab.press("Enter")
    page.at("Overview")
    page.open()
    page.at("Overview")
    page.click("Log out")
    page.tab.until("document.querySelector('.login')")
    assert page.tab.run("sessionStorage.getItem('authorization')") is None


def test_a_queue_from_its_first_message_to_its_end(page, name):
    queue = name("queue")
    page.log_in()
    page.go("Queues")
    page.click("Add a queue")
    page.fill("Name", queue)
    page.click("x-max-length")
    page.tab.type("1000")
    page.click("Add queue")
    page.sees(f"Queue {queue} is there.")

    page.visit("queues", "/", queue)
    page.fact("Arguments", "x-max-length: 1000")
    page.fact("Durable", "yes")
    page.click("Publish a message")
    page.fill("Payload", "<b>first</b>")
    for _ in range(3):
        page.click("Publish", within="details[open]")
    page.tab.until("document.body.innerText.match(/Ready\\s*3/)")
    page.chart_moves("Messages in the queue")

    page.click("Get messages")
    page.fill("How many", "2")
    page.click("Get")
    page.sees("<b>first</b>", within=".messages")
    page.sees("After it", within=".messages")
    page.tab.until("document.querySelectorAll('.messages > li').length === 2")
    page.fill("And then", "ack_requeue_false")
    page.click("Get")
    page.agree("Take them")
    page.tab.until("document.body.innerText.match(/Ready\\s*1\\b/)")

    page.click("Purge", within=".actions")
    page.agree("Purge")
    page.sees(f"Queue {queue} has been purged.")
    page.tab.until("document.body.innerText.match(/Ready\\s*0\\b/)")
    page.click("Delete", within=".actions")
    page.agree("Delete")
    page.sees(f"Queue {queue} has been deleted.")
    page.at("Queues")


def test_the_overview_moves_with_the_traffic(page, channel, queue):
    page.log_in()
    page.fill("Refresh", "2", within=".settings")
    for number in range(200):
        channel.basic_publish("", queue, str(number).encode())
    page.tab.until("Number(document.querySelector('.tile strong').innerText.replace(',', '')) >= 200")
    page.chart_moves("Messages in queues")
    page.sees("Memory", within="main")
    page.sees("Uptime", within="main")


def test_rates_of_messages_are_drawn(page, channel, queue):
    page.log_in()
    page.fill("Refresh", "2", within=".settings")
    page.visit("queues", "/", queue)
    chart = "[...document.querySelectorAll('figure')].find((each) => each.innerText.startsWith('Messages per second'))"
    figure = f"{chart}.querySelector('.legend .figure').innerText"

    def is_shown():
        channel.basic_publish("", queue, b"x" * 100)
        return page.tab.run(f"!['–', '0/s'].includes({figure})")

    page.tab.wait_for(is_shown)
    page.chart_moves("Messages per second")


def test_an_exchange_with_bindings_and_what_no_queue_takes(page, channel, queue, name):
    exchange = name("exchange")
    page.log_in()
    page.go("Exchanges")
    page.click("Add an exchange")
    page.fill("Name", exchange)
    page.fill("Type", "topic")
    page.click("Add exchange")
    page.sees(f"Exchange {exchange} is there.")
    page.visit("exchanges", "/", exchange)
    page.click("Bind something to this exchange")
    page.fill("Name", queue)
    page.fill("Routing key", "orders.#")
    page.click("Bind")
    page.row(queue, "orders.#")

    page.click("Bind something to this exchange")
    page.click("Publish a message")
    page.fill("Routing key", "nowhere")
    page.click("Publish")
    page.sees("no queue took it")
    page.fill("Routing key", "orders.eu")
    page.click("Publish")
    page.sees("Published.", within=".notices")
    page.tab.until("!document.body.innerText.includes('no queue took it')")
    assert channel.queue_declare(queue, passive=True).method.message_count == 1

    page.click("Unbind")
    page.agree("Unbind")
    page.sees("It is bound to nothing.")
    page.click("Delete", within=".actions")
    page.agree("Delete")
    page.at("Exchanges")


def test_what_the_broker_refuses_is_said_in_its_words(page, queue):
    page.is_refusal_expected = True
    page.log_in()
    page.go("Queues")
    page.click("Add a queue")
    page.fill("Name", queue)
    page.click("Durable", kinds="label")
    page.click("x-max-length")
    page.tab.type("7")
    page.click("Add queue")
    page.sees("inequivalent arg", within="main [role=alert]")


def test_nothing_that_a_name_or_a_message_says_runs(page, broker, api, vhost, connect):
    names = HOSTILE
    connection = connect(virtual_host=vhost, client_properties={"connection_name": names[0], names[1]: names[0]})
    channel = connection.channel()
    for each in names:
        channel.queue_declare(each, durable=True)
        channel.exchange_declare(each, "topic", durable=True)
        channel.queue_bind(each, each, each, {names[0]: names[1]})
        headers = {names[0]: names[1], "nested": {names[0]: [names[1]]}}
        channel.basic_publish(
            "", each, names[1].encode(), pika.BasicProperties(headers=headers, type=names[0], content_type=names[0])
        )
        api(
            "PUT",
            "policies",
            vhost,
            each,
            body={"pattern": "^none$", "definition": {"dead-letter-exchange": each}, "apply-to": "queues"},
        )
    channel.basic_consume(names[4], lambda *_: None, consumer_tag=names[0])
    hostile_user, hostile_vhost = f"{vhost} {names[0]}", f"{vhost} {names[1]}"
    api("PUT", "users", hostile_user, body={"password": "x", "tags": names[0]})
    api("PUT", "vhosts", hostile_vhost, body={"description": names[0], "tags": names[1]})
    try:
        page.log_in()
        for place in PLACES:
            page.go(place)
        page.fill("Show", vhost, within=".settings")
        page.go("Queues")
        for each in names:
            page.row(each)
        page.go("Policies")
        page.row(names[0])
        page.go("Users")
        page.sees(hostile_user)
        page.visit("users", hostile_user)
        page.visit("vhosts", hostile_vhost)
        page.sees(names[0])
        page.go("Connections")
        page.click(names[0], within="main")
        page.sees(names[1])
        for each in names:
            page.visit("exchanges", vhost, each)
            page.row(each, each)
            page.visit("queues", vhost, each)
            page.row(each, each)
            page.click("Get messages")
            page.click("Get")
            if each != names[4]:
                page.sees(names[1], within=".messages pre")
        assert page.tab.run("window.isHacked === undefined && document.querySelector('main img, main script') === null")
    finally:
        api("DELETE", "users", hostile_user)
        api("DELETE", "vhosts", hostile_vhost)


def test_a_user_is_added_with_permissions_and_sees_what_the_tags_allow(page, api, name, queue):
    user = name("clerk")
    page.log_in()
    page.go("Users")
    page.click("Add a user")
    page.fill("Name", user)
    page.fill("Password", "secret")
    page.click("management", kinds="label > span")
    page.click("Add user")
    page.row(user, "management")
    try:
        page.visit("users", user)
        page.sees("This user may use no virtual host.")
        page.click("Set permissions")
        page.fill("Virtual host", "/")
        page.fill("Configure", "^$")
        page.click("Set permissions", kinds="button")
        page.row("/", "^$", ".*")
        page.click("Log out")

        page.is_refusal_expected = True
        page.submit_login(user, "secret")
        page.at("Overview")
        shown = page.tab.run("[...document.querySelectorAll('nav a')].map((each) => each.innerText)")
        assert shown == ["Overview", "Connections", "Channels", "Exchanges", "Queues", "Policies", "Virtual hosts"]
        page.visit("queues", "/", queue)
        page.click("Delete", within=".actions")
        page.agree("Delete")
        page.sees("access", within=".notices")
        page.sees("refused", within=".notices")

        api("PUT", "users", user, body={"password": "another", "tags": "management"})
        page.sees("You have been logged out", within=".login")
    finally:
        api("DELETE", "users", user)


def test_a_user_without_tags_is_told_so(page, user):
    page.is_refusal_expected = True
    page.open()
    page.submit_login(user(""), "secret")
    page.sees("This user has no tag that lets it in here.")


def test_limits_are_set_and_lifted(page, vhost):
    page.log_in()
    page.visit("vhosts", vhost)
    page.fill("Limit", "max-queues")
    page.fill("At most", "17")
    page.click("Set limit")
    page.tab.until("document.querySelector('.limits').innerText.match(/Queues\\s+17/)")
    page.click("Lift")
    page.tab.until("document.querySelector('.limits').innerText.match(/Queues\\s+no limit/)")


def test_a_policy_is_added_changed_and_deleted(page, vhost, connect):
    connect(virtual_host=vhost).channel().queue_declare("orders", durable=True)
    page.log_in()
    page.fill("Show", vhost, within=".settings")
    page.go("Policies")
    page.click("Add or change a policy")
    page.fill("Name", "short")
    page.fill("Pattern", "^ord")
    page.click("max-length")
    page.tab.type("5")
    page.click("Save policy")
    page.row("short", "^ord", "max-length: 5")
    page.click("Edit")
    page.fill("Priority", "3")
    page.click("Save policy")
    page.row("short", "max-length: 5", "3")
    page.visit("queues", vhost, "orders")
    page.fact("Policy", "short")
    page.fact("What the policies make of it", "max-length: 5")
    page.go("Policies")
    page.click("Delete")
    page.agree("Delete")
    page.sees("No policy.")


def test_a_connection_is_closed_with_a_reason(page, broker):
    connection = pika.BlockingConnection(broker.parameters(client_properties={"connection_name": "to be closed"}))
    page.log_in()
    page.go("Connections")
    page.click("to be closed", within="main")
    page.sees("Pika Python Client Library")
    page.fill("Reason", "maintenance at noon")
    page.click("Close connection")
    page.agree("Close connection")
    page.at("Connections")
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
        connection.process_data_events(time_limit=20)
    assert closed.value.reply_code == 320
    assert "maintenance at noon" in closed.value.reply_text


def test_messages_are_moved_to_another_queue(page, channel, queue, name):
    target = channel.queue_declare(name("target")).method.queue
    for _ in range(50):
        channel.basic_publish("", queue, b"moves")
    page.log_in()
    page.fill("Refresh", "2", within=".settings")
    page.visit("queues", "/", queue)
    page.click("Move messages")
    page.fill("Name", target)
    page.click("Move all messages")
    page.sees(f"Messages of {queue} move to {target}.")
    page.tab.until("document.body.innerText.match(/Ready\\s*0\\b/)")
    page.visit("queues", "/", target)
    page.tab.until("document.body.innerText.match(/Ready\\s*50\\b/)")


def test_long_lists_come_in_pages_sorted_and_filtered_by_the_broker(page, vhost, connect):
    channel = connect(virtual_host=vhost).channel()
    for number in range(60):
        channel.queue_declare(f"queue-{number:02}")
    channel.basic_publish("", "queue-33", b"x")
    page.log_in()
    page.fill("Show", vhost, within=".settings")
    page.go("Queues")
    page.sees("60 queues")
    page.sees("Page 1 of 2")
    page.row("queue-00")
    page.click("Next ›")
    page.row("queue-59")
    assert page.tab.run("document.querySelectorAll('tbody tr').length") == 10
    page.click("Ready")
    page.tab.until("document.querySelector('tbody th').innerText === 'queue-33'")
    assert page.tab.run("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "descending"
    page.tab.run("document.querySelector('[type=search]').focus()")
    page.tab.type("-1")
    page.sees("10 of 60")
    page.reload()
    page.sees("10 of 60")
    page.click("Regex", kinds="label")
    page.tab.run("document.querySelector('[type=search]').select()")
    page.tab.type("^queue-4[0-3]$")
    page.sees("4 of 60")


def test_definitions_go_out_and_come_in(page, tmp_path, vhost, connect, chromium, api):
    # JavaScript would round it, and write 2.0 as 2.
    exact = {"x-big": 2**63 - 1, "x-double": 2.0}
    connect(virtual_host=vhost).channel().queue_declare("in the file", durable=True, arguments={"x-big": exact["x-big"]})
    chromium.call(
        "Browser.setDownloadBehavior", browserContextId=page.tab.context, behavior="allow", downloadPath=str(tmp_path)
    )
    page.is_refusal_expected = True
    page.log_in()
    page.go("Definitions")
    page.fill("Of", vhost)
    page.click("Download")
    page.tab.wait_for(lambda: [each for each in tmp_path.iterdir() if each.suffix == ".json"])
    (file,) = tmp_path.iterdir()
    definitions = json.loads(file.read_text())
    assert [each["name"] for each in definitions["queues"]] == ["in the file"]
    assert definitions["queues"][0]["arguments"]["x-big"] == exact["x-big"]

    definitions["queues"][0]["arguments"] = exact
    definitions["queues"][0]["name"] = "from the file"
    file.write_text(json.dumps(definitions))
    page.tab.choose_file("input[type=file]", file)
    page.fill("Into", vhost)
    page.click("Upload")
    page.sees("Taken over: 1 queues.")
    page.visit("queues", vhost, "from the file")
    assert repr(api("GET", "queues", vhost, "from the file")["arguments"]) == repr(exact)

    file.write_text("{ this is no JSON")
    page.go("Definitions")
    page.tab.choose_file("input[type=file]", file)
    page.click("Upload")
    page.sees("This file is not JSON")
    file.write_text(
        json.dumps(
            {
                "queues": [
                    {
                        "name": "lost",
                        "vhost": "no such virtual host",
                        "durable": True,
                        "auto_delete": False,
                        "arguments": {},
                    }
                ]
            }
        )
    )
    page.tab.choose_file("input[type=file]", file)
    page.click("Upload")
    page.sees("no such virtual host", within="main")


def test_a_broker_that_does_not_answer_is_said_and_found_again(page, queue):
    page.log_in()
    page.visit("queues", "/", queue)
    page.tab.offline(True)
    page.sees("The broker does not answer.", within=".banner")
    page.tab.offline(False)
    page.sees("The broker answers again.")
    page.tab.until("document.querySelector('.banner').innerText === ''")
    page.tab.problems = [each for each in page.tab.problems if "ERR_INTERNET_DISCONNECTED" not in each]


def test_every_place_fits_a_phone(page, channel, queue, name):
    exchange = name("exchange")
    channel.exchange_declare(exchange)
    channel.queue_bind(queue, exchange, "a.routing.key")
    page.tab.resize(*PHONE, is_phone=True)
    page.log_in()
    for place in PLACES:
        page.click("Menu")
        page.go(place)
        fits(page, place)
    for place, title in [
        (("queues", "/", queue), queue),
        (("exchanges", "/", exchange), exchange),
        (("users", "guest"), "guest"),
        (("vhosts", "/"), "/"),
    ]:
        page.visit(*place, title=title)
        page.tab.run("document.querySelectorAll('details').forEach((each) => (each.open = true))")
        fits(page, place)


def fits(page, place):
    """Nothing is wider than the window, so nothing has to be moved sideways."""
    assert page.tab.run("document.documentElement.scrollWidth") <= PHONE[0], place


def test_dark_by_the_systems_wish_or_by_choice(page):
    page.tab.prefer(**{"prefers-color-scheme": "dark"})
    page.log_in()
    assert brightness(page) < 60
    page.click("Theme: system")
    page.click("Theme: light")
    page.click("Theme: dark")
    page.click("Theme: system")
    page.tab.until("document.querySelector('.settings').innerText.includes('Theme: light')")
    assert brightness(page) > 200
    page.open()
    page.at("Overview")
    assert brightness(page) > 200


def brightness(page):
    """The mean of red, green and blue behind the page."""
    color = page.tab.run("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", color)[:3])) / 3


def test_everything_by_the_keyboard(page, queue):
    tab = page.tab
    page.open()
    tab.until("document.activeElement?.autocomplete === 'username'")
    tab.type("guest")
    tab.press("Tab")
    tab.type("guest")
    tab.press("Enter")
    page.at("Overview")
    tab.press("Tab")
    focused(tab, "Skip to the content")
    tab.press("Enter")
    assert tab.run("document.activeElement.id") == "main"
    tab.run("document.activeElement.blur()")

    page.visit("queues", "/", queue)
    tab.run("document.getElementById('main').focus()")
    for text in ("‹ Queues", "Purge", "Delete"):
        tab.press("Tab")
        focused(tab, text)
        assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus is to be seen"
    tab.press("Enter")
    tab.until("document.querySelector('dialog[open]')")
    tab.press("Escape")
    tab.until("!document.querySelector('dialog')")
    focused(tab, "Delete")
    page.at(queue)


def focused(tab, text):
    """Waits until what has this text has the focus."""
    tab.until(f"document.activeElement?.innerText === {json.dumps(text)}")


def test_every_field_and_button_has_a_name(page, channel, queue, name):
    page.log_in()
    nameless = """[...document.querySelectorAll("button, a, input, select, textarea, meter")].filter((each) =>
      !(each.getAttribute("aria-label") ?? each.textContent)?.trim() && !each.labels?.[0]?.textContent.trim())
      .map((each) => each.outerHTML)"""
    for place in PLACES:
        page.go(place)
        assert page.tab.run(nameless) == [], place
    page.visit("queues", "/", queue)
    page.tab.run("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert page.tab.run(nameless) == []


def test_a_hidden_page_asks_for_nothing(page):
    page.log_in()
    page.fill("Refresh", "2", within=".settings")
    asked = len(page.tab.requested)
    page.tab.wait_for(lambda: len(page.tab.requested) > asked)
    page.tab.run(
        "(Object.defineProperty(document, 'hidden', {value: true, configurable: true}),"
        " document.dispatchEvent(new Event('visibilitychange')))"
    )
    page.tab.run("new Promise((resolve) => setTimeout(resolve, 300))")
    asked = len(page.tab.requested)
    page.tab.run("new Promise((resolve) => setTimeout(resolve, 3000))")
    assert len(page.tab.requested) == asked
    page.tab.run("(delete document.hidden, document.dispatchEvent(new Event('visibilitychange')))")
    page.tab.wait_for(lambda: len(page.tab.requested) > asked)
