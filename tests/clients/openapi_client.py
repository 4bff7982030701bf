"""A client that openapi-python-client generated from the document of a gateway, against that gateway.

Arguments: URL, key, organization id and agent id of a gateway, and the same of one that accepts tasks and
runs none. The package `wardgate_client` is where Python looks for packages. `cargo xtask clients` runs this.
An answer with a status that is not documented is an error of the client; one with a field that is not
documented fails here.

Streams of events are not tried: OpenAPI 3.1 cannot say that a body is many events, and this client takes it
for one.
"""

import importlib
import io
import json
import pkgutil
import re
import sys
import time
import typing
from http import HTTPStatus
from uuid import UUID

import wardgate_client
from wardgate_client import AuthenticatedClient, Client
from wardgate_client.api.admin import admin_read_component
from wardgate_client.api.agents import invoke_agent, invoke_agent_async, list_agents, read_agent
from wardgate_client.api.channels import receive_hook
from wardgate_client.api.docs_gpt import read_task_status, read_webhook_url, trigger_by_token
from wardgate_client.api.tasks import delete_task, list_tasks, read_activity, read_task, stop_task
from wardgate_client.api.webhook import trigger_agent
from wardgate_client.models import (
    AgentStatus,
    ErrorBody,
    Invocation,
    InvocationInput,
    InvocationUser,
    ListTasksStatus,
    Progress,
    RefusalBody,
    Status,
    Task,
    TaskAnswer,
    TriggerAgentJsonBody,
)
from wardgate_client.types import File

url, key, organization, agent_id, *waiting = sys.argv[1:]

# The generator cannot send a body of text, and this route takes nothing else.
NOT_GENERATED = {"admin_replace_grants"}


def client_of(url, key):
    return AuthenticatedClient(
        base_url=url,
        token=key,
        prefix="",
        auth_header_name="x-api-key",
        raise_on_unexpected_status=True,
    )


client = client_of(url, key)


def every_operation_can_be_imported():
    found = pkgutil.walk_packages(wardgate_client.__path__, "wardgate_client.")
    # Packages of a group have nothing of their own.
    modules = [importlib.import_module(module.name) for module in found]
    generated = {m.__name__.split(".")[-1] for m in modules if hasattr(m, "sync_detailed")}
    served = client.get_httpx_client().get("/openapi.json").json()
    operations = [o["operationId"] for path in served["paths"].values() for o in path.values()]
    names = {re.sub("_+", "_", operation).strip("_") for operation in operations}
    assert len(names) == len(operations), "two operations have one name in the client"
    assert names - generated == NOT_GENERATED and generated < names, names ^ generated


def as_documented(value):
    assert not getattr(value, "additional_properties", None), f"not in the document: {value}"
    return value


def asked(expression="6*7"):
    user = InvocationUser(id="u-1", email="ada@example.com")
    text = f'calculate {{"expression": "{expression}"}}'
    return Invocation(input_=InvocationInput(text=text, user=user))


def agents_are_listed_and_read():
    page = as_documented(list_agents.sync(client=client, per_page=100))
    assert page.page == 1 and page.per_page == 100 and page.total == len(page.items), page
    item = as_documented(next(item for item in page.items if item.id == UUID(agent_id)))
    agent = as_documented(read_agent.sync(agent_id, client=client))
    assert agent.id == item.id and agent.name == item.name, agent
    assert agent.organization_id == UUID(organization) and agent.status is AgentStatus.ACTIVE, agent
    assert {"calculate", "http_fetch"} <= {as_documented(tool).id for tool in agent.tools}, agent


def a_task_is_created_and_polled():
    task = as_documented(invoke_agent_async.sync(agent_id, client=client, body=asked()))
    assert isinstance(task, Task) and task.agent_id == UUID(agent_id), task
    assert not task.finished_at and task.result is None, task
    polled = finished(task.id)
    assert polled.status is Status.COMPLETED and not polled.is_manually_stopped, polled
    assert polled.created_at == task.created_at <= polled.started_at <= polled.finished_at, polled
    assert polled.source == "api" and polled.input_.user.email == "ada@example.com", polled
    [call] = json.loads(polled.result)["tools"]
    assert call["name"] == "calculate" and call["result"]["value"] == 42, call
    return polled


def finished(task_id):
    patience = time.monotonic() + 60
    while True:
        task = as_documented(read_task.sync(str(task_id), client=client))
        if task.finished_at:
            return task
        assert time.monotonic() < patience, task
        time.sleep(0.05)


def it_is_read_and_listed(task):
    assert read_task.sync(str(task.id), client=client) == task
    page = list_tasks.sync(client=client, agent_id=agent_id, status=ListTasksStatus.COMPLETED)
    assert all(item.status is Status.COMPLETED for item in page.items), page
    item = as_documented(next(item for item in page.items if item.id == task.id))
    assert item.user_id == "u-1" and item.result == task.result, item
    activity = as_documented(read_activity.sync(agent_id, str(task.id), client=client))
    said, called, told = map(as_documented, activity.messages)
    assert said.content.text == task.input_.text and told.content.text == task.result, activity
    assert called.tool_name == "calculate" and called.result["value"] == 42, activity


def an_answer_is_waited_for():
    task = as_documented(invoke_agent.sync(agent_id, client=client, body=asked("2^10")))
    assert isinstance(task, Task) and task.status is Status.COMPLETED, task
    assert json.loads(task.result)["tools"][0]["result"]["value"] == 1024, task


def the_webhook_is_called():
    body = TriggerAgentJsonBody.from_dict({"prompt": "hello"})
    answer = trigger_agent.sync_detailed(client=client, body=body, agent_id=agent_id)
    # Its schema is any JSON, as a getter may ask for any.
    assert answer.status_code == HTTPStatus.OK, answer
    task = as_documented(TaskAnswer.from_dict(answer.parsed))
    assert task.status is Status.COMPLETED and task.source == "webhook", task


def a_webhook_of_its_own_is_called():
    answer = as_documented(read_webhook_url.sync(client=client, id=agent_id))
    token = answer.webhook_url.rsplit("/", 1)[-1]
    # Neither needs a key.
    anyone = Client(base_url=url, raise_on_unexpected_status=True)
    triggered = as_documented(trigger_by_token.sync(token, client=anyone, body={"event": "push"}))
    assert triggered.success, triggered
    patience = time.monotonic() + 60
    status = None
    while status is not Progress.SUCCESS:
        assert time.monotonic() < patience and status is not Progress.FAILURE, status
        time.sleep(0.05)
        polled = read_task_status.sync(client=anyone, task_id=triggered.task_id)
        status = as_documented(polled).status


def a_task_that_waits_is_stopped():
    url, key, _, agent_id = waiting
    client = client_of(url, key)
    task = invoke_agent_async.sync(agent_id, client=client, body=asked())
    assert task.status is Status.PENDING, task
    stopped = as_documented(stop_task.sync(str(task.id), client=client))
    assert stopped.status is Status.STOPPED and stopped.is_manually_stopped, stopped


def what_is_deleted_is_gone(task):
    answer = delete_task.sync_detailed(str(task.id), client=client)
    assert answer.status_code == HTTPStatus.NO_CONTENT, answer
    refused(404, "Task not found", read_task.sync_detailed(str(task.id), client=client))


def errors_are_answers():
    refused(404, "Task not found", read_task.sync_detailed("nothing", client=client))
    wrong = client_of(url, "wgk_wrong")
    refused(403, "Invalid API key", list_agents.sync_detailed(client=wrong))
    refused(422, "per_page", list_agents.sync_detailed(client=client, per_page=0))
    with_files = Invocation(input_=InvocationInput(text="read", files=["https://example.com/a"]))
    answer = invoke_agent_async.sync_detailed(agent_id, client=client, body=with_files)
    refused(422, "files", answer)
    answer = trigger_by_token.sync_detailed("wrong", client=client, body={})
    assert answer.status_code == HTTPStatus.NOT_FOUND, answer
    assert isinstance(answer.parsed, RefusalBody) and answer.parsed.success is False, answer


def bytes_are_bytes():
    assert typing.get_type_hints(receive_hook.sync)["body"] is File
    assert File in typing.get_args(typing.get_type_hints(admin_read_component.sync)["return"])
    body = File(payload=io.BytesIO(b"\x00\xff"))
    refused(404, "Channel", receive_hook.sync_detailed("nobody's", client=client, body=body))


def refused(status, why, answer):
    assert answer.status_code == status, answer
    assert isinstance(as_documented(answer.parsed), ErrorBody), answer
    assert why in answer.parsed.detail, answer


every_operation_can_be_imported()
agents_are_listed_and_read()
task = a_task_is_created_and_polled()
it_is_read_and_listed(task)
an_answer_is_waited_for()
the_webhook_is_called()
a_webhook_of_its_own_is_called()
a_task_that_waits_is_stopped()
what_is_deleted_is_gone(task)
errors_are_answers()
bytes_are_bytes()
