"""Teachers: where π* and q come from."""

from minari_distill.teachers.files import load_teacher, save_teacher
from minari_distill.teachers.teacher import NetworkTeacher, Teacher

__all__ = ["NetworkTeacher", "Teacher", "load_teacher", "save_teacher"]
