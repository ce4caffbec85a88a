"""What is shown of searches, topic by topic, in the order of reading."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.curve_lines import series_of, statistic
from analysis.curve_tables import Setting
from analysis.curve_words import Topic
from analysis.effort_topics import effort_topic, operators_topic
from analysis.estimate_topic import estimates_topic
from analysis.fitness_topics import training_topic, within_topic
from analysis.front_topics import hypervolume_topic, pareto_topic


def topics_of(settings: Sequence[Setting]) -> list[Topic]:
    """What can be shown of these runs, in the order of reading; what their lines do not tell is left out."""
    found = []
    for objective in dict.fromkeys(name for setting in settings for name in setting.histories[0].objectives):
        having = [setting for setting in settings if series_of(setting, statistic(objective, "best"))]
        if having:
            found += [within_topic(having, objective, len(settings)), training_topic(having, objective, len(settings))]
    found += [
        estimates_topic(settings),
        hypervolume_topic(settings),
        pareto_topic(settings),
        effort_topic(settings),
        operators_topic(settings),
    ]
    return [topic for topic in found if topic.panels]
