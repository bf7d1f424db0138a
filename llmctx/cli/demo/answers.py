"""The answers of the demo's provider, written for the demo. Nothing here is medical advice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from llmctx.cli.demo.provider_protocol import ChatRequest

INTENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "pressure": ("blood pressure", "血压"),
    "medication": ("tablets", "medicines", "药"),
    "appointment": ("appointment", "预约"),
    "opinion": ("second opinion",),
    "laboratory": ("blood test",),
    "advice": ("walk", "sleep", "headache", "失眠"),
}
"""Words by which the provider recognises what a patient wants; anything else is "unclear"."""

_ANSWERS: Final[Mapping[str, tuple[str, str]]] = {
    "answer": (
        "The practice is open from 8 to 18 on weekdays. In an emergency call the emergency number at once.",
        "诊所工作日上午八点到下午六点开放。紧急情况请立即拨打急救电话。",
    ),
    "clarify": (
        "I would like to help. Is it about an appointment, your blood pressure or a medicine?",
        "很乐意帮忙。您想预约、询问血压，还是了解用药？",
    ),
    "advice": (
        "A walk of half an hour is fine. Stop if you feel dizzy, and tell us at your next visit.",
        "睡前一小时不要看手机，也不要喝浓茶。若两周后仍失眠，请来复诊。",
    ),
    "appointment": (
        "I have put you down for Thursday at 10:40 with Dr. Lindqvist. Please bring your card.",
        "已为您预约周四上午十点四十分，林医生。请带上就诊卡。",
    ),
    "rank": (
        "1. Thursday 10:40, because the patient asked for a morning. 2. Friday 9:15. 3. Monday 16:30.",
        "一、周四十点四十分，因为患者希望上午。二、周五九点一刻。",
    ),
    "pressure": (
        "142 over 91 is a little high for a single reading. Measure again in the evening, sitting, for three days.",
        "142/91 略高。请连续三天晚上静坐五分钟后再测，并记下来。",
    ),
    "check": (
        "No known interaction with the other medicines on the list at this dose.",
        "与清单上的其他药物在此剂量下没有已知的相互作用。",
    ),
    "opinion": (
        "The findings support the first diagnosis; an ultrasound would settle the open question.",
        "检查结果支持初步诊断，可再做一次超声确认。",
    ),
    "laboratory": (
        "HbA1c 6.4 %, a little above the target; the other values are in the normal range.",
        "糖化血红蛋白 6.4%，略高于目标，其余指标正常。",
    ),
    "summary": (
        "Patient asked about opening hours; answered; no follow-up needed.",
        "患者咨询开放时间，已答复，无需随访。",
    ),
    "letter": (
        "Dear colleague, the patient reports readings around 142/91. We have asked for a diary of three days.",
        "同事您好：患者自测血压约 142/91，已请其记录三天。",
    ),
}


def answer(asked: ChatRequest) -> str:
    """Return the text for a task, in the language of the question."""
    task = (asked.task or "answer").split()[0]
    if task == "intent":
        found = (intent for intent, words in INTENTS.items() if any(word in asked.question.lower() for word in words))
        return next(found, "unclear")
    chinese = any("\u4e00" <= char <= "\u9fff" for char in asked.question)
    return _ANSWERS.get(task, _ANSWERS["answer"])[chinese]


def arguments(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments that fit a tool's JSON schema: the demo's tool is asked for a Thursday."""
    kinds: dict[str, Any] = {"string": "Thursday", "integer": 1, "number": 1.5, "boolean": True, "array": []}
    properties: Mapping[str, Any] = schema.get("properties") or {}
    return {name: kinds.get(spec.get("type", "string"), {}) for name, spec in properties.items()}
