"""Mandarin sentences from a small grammar over this project's own word lists.

Sentences are lists of words in characters (hanzi). espeak-ng's Mandarin voice reads only
tone-numbered pinyin, so :func:`pinyin` converts.
"""

from __future__ import annotations

import random
from importlib import import_module

from nas_encoder.errors import MissingDependencyError
from tools.synth import grammar

CATEGORIES: dict[str, tuple[str, ...]] = {
    "when": (
        "今天", "明天", "昨天", "早上", "晚上", "下午", "中午", "周末", "去年", "最近", "平时",
    ),
    "who": (
        "我们", "他们", "老师", "学生", "医生", "妈妈", "爸爸", "朋友", "司机", "经理",
        "妹妹", "同学", "邻居", "农民", "工人", "记者",
    ),
    "place": (
        "学校", "公园", "商店", "医院", "车站", "图书馆", "厨房", "教室", "超市", "机场",
        "办公室", "银行", "海边", "山上",
    ),
    "did": (
        "跑步", "唱歌", "跳舞", "睡觉", "工作", "休息", "吃饭", "读书", "游泳", "聊天", "画画",
    ),
    "took": ("看见", "买到", "卖掉", "找到", "忘记", "准备", "收到", "借走", "打破", "拿来"),
    "want": ("想要", "喜欢", "需要", "希望", "打算", "可以", "应该"),
    "thing": (
        "苹果", "水果", "书包", "电脑", "手机", "衣服", "鞋子", "雨伞", "照片", "牛奶",
        "面包", "鸡蛋", "报纸", "地图", "钥匙", "礼物", "眼镜", "椅子",
    ),
    "number": ("一", "两", "三", "四", "五", "六", "七", "八", "九", "十"),
    "counted": (
        "个 苹果", "本 词典", "张 地图", "把 雨伞", "件 衣服", "双 鞋子", "杯 热茶", "朵 鲜花",
        "条 毛巾", "辆 汽车",
    ),
    "quality": (
        "漂亮", "合适", "新鲜", "干净", "安静", "重要", "简单", "好看", "有用", "奇怪", "特别",
    ),
    "feels": ("高兴", "生气", "着急", "累", "忙", "饿", "渴", "害怕"),
    "weather": ("很 冷", "很 热", "下雨", "下雪", "刮风", "变 凉快"),
    "how": ("慢慢", "马上", "一起", "经常", "已经", "偷偷", "认真"),
    "side": ("里面", "外面", "旁边", "对面", "后面"),
}  # fmt: skip
"""Word lists, by the name that the templates use in braces; a space separates words."""

TEMPLATES: tuple[str, ...] = (
    "{when} {who} 在 {place} {did}",
    "{who} {took} 了 {number} {counted}",
    "{who} 的 {thing} 非常 {quality}",
    "{when} {place} 外面 {weather}",
    "请 把 {thing} 放 在 {place} {side}",
    "{who} 和 {who} {how} 去 {place}",
    "{place} {side} 有 很多 {thing}",
    "{who} {want} 给 {who} 买 {thing}",
    "为什么 {who} {when} 没有 去 {place}",
    "{when} {who} 觉得 有点 {feels}",
    "{who} {how} 从 {place} 回家",
    "这 {number} {counted} 都 是 {who} 送 的",
    "{who} {want} 在 {place} {did}",
    "如果 {weather} {who} 就 不 {did}",
)
"""Sentence templates; a name in braces stands for one entry of that list."""


def vocabulary() -> list[str]:
    """Return every word that a sentence can contain, sorted."""
    return sorted(grammar.vocabulary(CATEGORIES, TEMPLATES))


def draw_sentence(rng: random.Random) -> tuple[str, ...]:
    """Draw the words of a sentence, in characters."""
    return tuple(grammar.draw(CATEGORIES, TEMPLATES, rng))


def pinyin(words: tuple[str, ...]) -> tuple[str, ...]:
    """Convert words to tone-numbered pinyin, e.g. ``("女儿",)`` to ``("nv3", "er2")``.

    There is one syllable per character; 5 is the neutral tone, ``v`` stands for ü. Each word is
    converted separately: its characters may be read in several ways, and the word decides.

    Raises:
        MissingDependencyError: ``pypinyin`` is not installed.
    """
    try:
        library = import_module("pypinyin")
    except ImportError as error:
        raise MissingDependencyError("pypinyin", "dev", "a Mandarin corpus") from error
    style = library.Style.TONE3
    syllables: list[str] = []
    for word in words:
        syllables += library.lazy_pinyin(word, style=style, neutral_tone_with_five=True)
    return tuple(syllables)
