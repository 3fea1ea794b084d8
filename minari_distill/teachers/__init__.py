"""Teachers: where π* and q come from."""

from minari_distill.teachers.files import load_teacher, save_teacher
from minari_distill.teachers.learn import (
    DISCRETE_TRAINERS,
    TRAINERS,
    estimate_seconds,
    learn_teacher,
    make_trainer,
    settle_teacher,
)
from minari_distill.teachers.q_teacher import QTeacher
from minari_distill.teachers.teacher import NetworkTeacher, Teacher, as_read, check_actions
from minari_distill.teachers.training import TEACHER_SETTINGS

__all__ = [
    "DISCRETE_TRAINERS",
    "TEACHER_SETTINGS",
    "TRAINERS",
    "NetworkTeacher",
    "QTeacher",
    "Teacher",
    "as_read",
    "check_actions",
    "estimate_seconds",
    "learn_teacher",
    "load_teacher",
    "make_trainer",
    "save_teacher",
    "settle_teacher",
]
