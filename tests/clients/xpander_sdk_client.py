"""xpander's own Python SDK, as its users call it, against a gateway with a demo tenant.

Arguments: URL, key, organization id and agent id of a gateway, and the same of one that accepts tasks and
runs none. `cargo xtask clients` runs this. The SDK knows nothing of this gateway: whatever it cannot read
fails here.
"""

import sys
import time

from loguru import logger

from xpander_sdk import Agent, Agents, Configuration, Tasks, User
from xpander_sdk.exceptions.module_exception import ModuleException
from xpander_sdk.models.activity import AgentActivityThreadMessage, AgentActivityThreadToolCall
from xpander_sdk.models.events import TaskUpdateEventType, ToolCallRequest, ToolCallResult
from xpander_sdk.modules.tasks.models.task import AgentExecutionStatus
from xpander_sdk.modules.tasks.sub_modules.task import Task

url, key, organization, agent_id, *waiting = sys.argv[1:]
configuration = Configuration(api_key=key, base_url=url, organization_id=organization)
tasks = Tasks(configuration=configuration)

PROMPT = 'calculate {"expression": "6*7"}'


# What the SDK can half read it only warns of.
warnings = []
logger.remove()
logger.add(warnings.append, level="WARNING")


def said(what):
    print(f"  {what}", flush=True)


def agents_are_listed_and_loaded():
    listed = Agents(configuration=configuration).list()
    assert agent_id in [item.id for item in listed], listed
    item = next(item for item in listed if item.id == agent_id)
    assert item.organization_id == organization
    agent = item.load(configuration=configuration)
    assert agent.id == agent_id and agent.is_active
    assert agent.graph.items, "an agent with tools has a graph"
    assert all(node.type.value == "tool" for node in agent.graph.items), agent.graph.items
    assert {"calculate", "http_fetch"} <= {tool.id for tool in agent.tools.list}
    return agent


def a_tool_is_invoked(agent):
    tool = agent.tools.get_tool_by_id("calculate")
    result = agent.invoke_tool(tool=tool, payload={"expression": "6*7"})
    assert result.is_success and result.result["value"] == 42, result
    result = agent.invoke_tool(tool=tool, payload={"expression": "6*"})
    assert result.is_error and 400 <= result.status_code < 500, result


def a_task_is_created_and_polled(agent):
    user = User(id="u-1", email="ada@example.com", first_name="Ada", last_name="L")
    task = agent.create_task(prompt=PROMPT, user_details=user, events_streaming=True)
    assert isinstance(task, Task) and task.agent_id == agent_id
    assert finished(task) is task
    assert task.status == AgentExecutionStatus.Completed, task
    assert '"value":42' in task.result, task.result
    assert task.source == "sdk" and task.input.user.email == "ada@example.com", task
    assert tasks.get(task.id).result == task.result
    return task


def events_are_streamed(agent):
    task = agent.create_task(prompt=PROMPT, events_streaming=True)
    events = list(task.events())
    kinds = [event.type for event in events]
    expected = [
        TaskUpdateEventType.TaskCreated,
        TaskUpdateEventType.TaskUpdated,
        TaskUpdateEventType.ToolCallRequest,
        TaskUpdateEventType.ToolCallResult,
        TaskUpdateEventType.Chunk,
        TaskUpdateEventType.TaskFinished,
    ]
    assert kinds == expected, kinds
    request, result, chunk, finished = (event.data for event in events[2:])
    request, result = ToolCallRequest(**request), ToolCallResult(**result)
    assert request.tool_name == "calculate" and request.payload == {"expression": "6*7"}, request
    assert result.result["value"] == 42 and result.tool_call_id == request.tool_call_id, result
    assert isinstance(finished, Task) and finished.result == chunk, finished


def a_conversation_is_continued(agent):
    first = finished(agent.create_task(prompt="one"))
    second = finished(agent.create_task(prompt="two", existing_task_id=first.id))
    third = finished(agent.create_task(prompt="three", existing_task_id=second.id))
    assert '"earlier_messages":2' in third.result, third.result


def finished(task):
    patience = time.monotonic() + 60
    while not task.finished_at:
        assert time.monotonic() < patience, task
        task.reload()
    return task


def tasks_are_listed(agent, task):
    listed = tasks.list(agent_id=agent_id)
    item = next(item for item in listed if item.id == task.id)
    assert item.status == AgentExecutionStatus.Completed and item.user_id == "u-1", item
    assert item.load(configuration=configuration).result == task.result


def the_activity_log_is_read(task):
    log = task.get_activity_log()
    asked, called, told = log.messages
    assert isinstance(asked, AgentActivityThreadMessage) and asked.content.text == PROMPT, asked
    assert isinstance(called, AgentActivityThreadToolCall) and called.result["value"] == 42, called
    assert told.role == "agent" and told.content.text == task.result, told
    assert log.user.email == "ada@example.com", log.user


def an_end_stays_as_it_is(task):
    # Nothing changes in a task that has ended, and saying so again is no error.
    assert task.status == tasks.update(task_id=task.id, source="sdk").status
    task.save()
    assert task.status == AgentExecutionStatus.Completed, task
    task.stop()
    assert task.status == AgentExecutionStatus.Completed, task
    assert tasks.stop(task.id).status == AgentExecutionStatus.Completed
    try:
        tasks.update(task_id=task.id, status=AgentExecutionStatus.Failed, result="too late")
    except ModuleException as error:
        assert error.status_code == 409, error
    else:
        raise AssertionError("a task took a second end")


def a_task_that_waits_is_stopped_updated_and_saved():
    url, key, organization, agent_id = waiting
    configuration = Configuration(api_key=key, base_url=url, organization_id=organization)
    tasks = Tasks(configuration=configuration)
    agent = Agent.load(agent_id=agent_id, configuration=configuration)
    task = agent.create_task(prompt=PROMPT)
    assert task.status == AgentExecutionStatus.Pending, task
    task.stop()
    assert task.status == AgentExecutionStatus.Stopped and task.is_manually_stopped, task
    by_id = tasks.stop(agent.create_task(prompt=PROMPT).id)
    assert by_id.status == AgentExecutionStatus.Stopped, by_id
    updated = tasks.update(
        task_id=agent.create_task(prompt=PROMPT).id,
        status=AgentExecutionStatus.Completed,
        result="a human did it",
    )
    assert updated.status == AgentExecutionStatus.Completed, updated
    assert updated.result == "a human did it" and updated.finished_at, updated
    task = agent.create_task(prompt=PROMPT)
    task.save()
    assert task.status == AgentExecutionStatus.Pending, "what is saved unchanged stays as it is"
    task.set_status(AgentExecutionStatus.Failed, result="no way")
    assert tasks.get(task.id).status == AgentExecutionStatus.Failed, task
    assert tasks.get(task.id).result == "no way", task


def a_wrong_key_is_an_error_of_the_sdk():
    wrong = Configuration(api_key="wgk_wrong", base_url=url, organization_id=organization)
    try:
        Agent.load(agent_id=agent_id, configuration=wrong)
    except ModuleException as error:
        assert error.status_code == 403 and "Invalid API key" in str(error), error
    else:
        raise AssertionError("a wrong key opened an agent")


agent = agents_are_listed_and_loaded()
said("agents are listed and loaded")
a_tool_is_invoked(agent)
said("a tool is invoked")
task = a_task_is_created_and_polled(agent)
said("a task is created and polled")
events_are_streamed(agent)
said("events are streamed")
a_conversation_is_continued(agent)
said("a conversation is continued")
tasks_are_listed(agent, task)
said("tasks are listed")
the_activity_log_is_read(task)
said("the activity log is read")
an_end_stays_as_it_is(task)
said("an end stays as it is")
a_task_that_waits_is_stopped_updated_and_saved()
said("a task that waits is stopped, updated and saved")
a_wrong_key_is_an_error_of_the_sdk()
said("a wrong key is an error")
assert not warnings, warnings
