"""Every block of docs/mounting.md is run: real Django and Flask with their own logins, served by uvicorn."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from pathlib import Path

import httpx
import pytest

from llmctx.cli.demo.processes import clean_environment
from llmctx.migrate import commands as migrate
from llmctx.settings import load
from tests.kit.dashboard import fill

pytestmark = pytest.mark.timeout(400)
DOC = (Path(__file__).parents[2] / "docs/mounting.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL))
DJANGO = """
from pathlib import Path
SECRET_KEY = "of tests"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "clinic_urls"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).parent / "django.db"}}
LOGIN_URL = "/login"
"""
DJANGO_URLS = """
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("patients", lambda request: HttpResponse("the clinic's own page"))]
"""
DJANGO_USERS = """
import django
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
for name, staff in (("maria", True), ("ben", False)):
    client = Client()
    client.force_login(User.objects.create_user(name, is_staff=staff, is_superuser=staff))
    print(client.cookies["sessionid"].OutputString())
"""
FLASK = """
from flask import Flask, session
app = Flask(__name__)
app.secret_key = "of tests"

@app.get("/patients")
def patients():
    return "the clinic's own page"

@app.get("/login/<user>")
def login(user):
    session["user"] = user
    return "welcome"
"""


@pytest.fixture
def serve(tmp_path: Path, sqlite_url: str) -> Iterator[Callable[..., httpx.Client]]:
    """A function that serves a block of the page, with these files beside it, and returns a client of it."""
    migrate.upgrade(load(database_url=sqlite_url))
    fill(sqlite_url)
    running: list[subprocess.Popen[bytes]] = []
    clients: list[httpx.Client] = []
    environment = {**clean_environment(), "LLMCTX_DATABASE_URL": sqlite_url, "PYTHONPATH": str(tmp_path)}
    environment["DJANGO_SETTINGS_MODULE"] = "clinic_settings"

    def start(block: str, **files: str) -> httpx.Client:
        for name, code in {block: BLOCKS[block], **files}.items():
            (tmp_path / f"{name}.py").write_text(code)
        log = tmp_path / "uvicorn.log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", "uvicorn", f"{block}:application", "--port", "0"]
            server = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=output)
        running.append(server)
        address = re.compile(r"http://127\.0\.0\.1:\d+")
        deadline = time.monotonic() + 240
        while not (found := address.search(log.read_text())):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.1)
        # On a connection that is kept, asgiref finds the executor of the request before, and says that it has quit:
        # a server goes on in the context of that request.
        clients.append(httpx.Client(base_url=found[0], timeout=60, limits=httpx.Limits(max_keepalive_connections=0)))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
    for server in running:
        server.terminate()
        server.wait(30)


def is_shown_to_staff_alone(client: httpx.Client, maria: dict[str, str], stranger: dict[str, str]) -> None:
    """The application's own pages are there, and the dashboard for those whom its login knows."""
    assert "the clinic's own page" in client.get("/patients").text
    for cookies in ({}, stranger):
        answer = client.get("/admin/llm/session?id=s-1", headers=cookies)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/admin/llm/session%3Fid%3Ds-1")
        assert client.get("/admin/llm/calls.json", headers=cookies).status_code == 403
    shown = client.get("/admin/llm/session?id=s-1", headers=maria)
    assert "secret question of ada" in shown.text
    (style,) = re.findall(r'href="(/admin/llm/static/llmctx\.css[^"]*)"', shown.text)
    assert client.get(style).status_code == 200
    assert len(client.get("/admin/llm/calls.json", headers=maria).json()["data"]) > 1


def test_django(serve: Callable[..., httpx.Client], tmp_path: Path) -> None:
    """Staff may look, a user who is none may not."""
    client = serve("django_asgi", clinic_settings=DJANGO, clinic_urls=DJANGO_URLS, users=DJANGO_USERS)
    environment = {**clean_environment(), "DJANGO_SETTINGS_MODULE": "clinic_settings"}
    made = subprocess.run(
        [sys.executable, "users.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    maria, ben = [{"cookie": f"sessionid={SimpleCookie(line)['sessionid'].value}"} for line in made.stdout.splitlines()]
    is_shown_to_staff_alone(client, maria, ben)


def test_flask(serve: Callable[..., httpx.Client]) -> None:
    """Whom the login has let in may look, and no forged cookie."""
    client = serve("flask_asgi", clinic_flask=FLASK)
    maria = {"cookie": f"session={client.get('/login/maria').cookies['session']}"}
    client.cookies.clear()
    is_shown_to_staff_alone(client, maria, {"cookie": maria["cookie"][:-3] + "xxx"})
