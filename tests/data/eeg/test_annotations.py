"""What is known of the seizures of a record: the public corpora with their quirks, and what is written."""

from datetime import datetime

import edfio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vibench.data.eeg.annotation_tables import TUSZ_SEIZURES
from vibench.data.eeg.annotations import Seizures, seizures_of, write_events
from vibench.data.eeg.edf import open_edf, write_edf
from vibench.errors import DataError

START = datetime(2016, 1, 1, 19, 39, 33)


@pytest.fixture
def record(tmp_path):
    """Make a record of so many seconds at 1 Hz, with files beside it: ``record("chb01_03.edf", {"x.txt": "..."})``."""

    def call(name="rec.edf", beside=(), *, seconds=4000, start=START, annotations=()):
        path = tmp_path / name
        marks = list(annotations)
        write_edf(path, np.zeros((seconds, 1)), ["Fz"], 1, start=start, patient="X", annotations=marks)
        for other, text in dict(beside).items():
            (tmp_path / other).write_text(text)
        return open_edf(path, ["Fz"], [])

    return call


def refused(recording, message):
    with pytest.raises(DataError, match=message) as caught:
        seizures_of(recording)
    assert "\n" not in str(caught.value)


def test_of_a_record_that_no_file_speaks_of_nothing_is_known(record):
    assert seizures_of(record()) == Seizures(
        events=None, source="no file beside it and no annotation in it says", format=""
    )


# what holds for every format


def table(*rows, head="onset\tduration\teventType"):
    return "\n".join((head, *("\t".join(map(str, row)) for row in rows))) + "\n"


def events_of(record, *rows, **more):
    return seizures_of(record("a_eeg.edf", {"a_events.tsv": table(*rows)}, **more)).events


def test_events_are_sorted_and_those_that_overlap_or_touch_are_one(record):
    rows = [(300, 10, "sz"), (100, 50, "sz"), (120, 10, "sz"), (140, 20, "sz"), (310, 5, "sz"), (400, 1.5, "sz")]
    assert events_of(record, *rows) == [(100, 160), (300, 315), (400, 401.5)]


def test_an_event_is_clipped_where_it_runs_over_an_end_by_less_than_a_second(record):
    assert events_of(record, (3990, 10.9, "sz"), (-0.9, 5, "sz")) == [(0, 4.1), (3990, 4000)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            (3990, 11),
            r"a_events\.tsv: line 2: a seizure from 3990 s to 4001 s runs over the record of 4000 s by 1 s or more",
        ),
        ((-1, 11), r"a_events\.tsv: line 2: a seizure from -1 s to 10 s runs over the record"),
        ((4000, 0.5), r"line 2: a seizure from 4000 s to 4000\.5 s lies outside the record of 4000 s"),
        ((-9, 9), r"line 2: a seizure from -9 s to 0 s lies outside the record"),
        ((100, -5), r"line 2: a seizure from 100 s to 95 s does not end after it begins"),
        ((100, 0), r"line 2: a seizure from 100 s to 100 s does not end after it begins"),
    ],
)
def test_an_event_that_does_not_lie_in_the_record_is_refused(record, row, message):
    refused(record("a_eeg.edf", {"a_events.tsv": table((*row, "sz"))}), message)


def test_the_formats_are_asked_in_order_and_only_until_one_knows(record):
    marks = [(50.0, 1.0, "seizure")]
    files = {
        "chb01-summary.txt": "File Name: chb01_eeg.edf\nNumber of Seizures in File: 1\n"
        "Seizure Start Time: 40 seconds\nSeizure End Time: 41 seconds\n",
        "Seizures-list-PN00.txt": "File name: chb01_eeg.edf\nStart time: 19.40.03\nEnd time: 19.40.04\n",
        "chb01_eeg.csv": TUSZ.format("FP1-F7,30,31,fnsz,1.0"),
        "chb01_eeg.csv_bi": TUSZ.format("TERM,20,21,seiz,1.0"),
        "chb01_events.tsv": table((10, 1, "sz")),
    }
    recording = record("chb01_eeg.edf", files, annotations=marks)
    sources = ["_events.tsv (BIDS events)", "csv_bi (TUSZ)", "csv (TUSZ)", "(CHB-MIT summary)", "(Siena seizure list)"]
    formats = ["BIDS events", "TUSZ csv_bi", "TUSZ csv", "CHB-MIT summary", "Siena seizure list"]
    order = ["chb01_events.tsv", "chb01_eeg.csv_bi", "chb01_eeg.csv", "chb01-summary.txt", "Seizures-list-PN00.txt"]
    for name, source, kind, onset in zip(order, sources, formats, (10, 20, 30, 40, 30), strict=True):
        found = seizures_of(recording)
        assert found.events == [(onset, onset + 1)]
        assert found.source.endswith(source)
        assert found.format == kind
        (recording.path.parent / name).unlink()
    assert seizures_of(recording) == Seizures(
        events=[(50, 51)], source="chb01_eeg.edf (EDF+ annotations)", format="EDF+ annotations"
    )


def test_a_file_that_says_nothing_leaves_it_to_the_next_one(record):
    files = {"a_events.tsv": table((10, 1, "impd")), "a_eeg.csv_bi": TUSZ.format("TERM,20,21,seiz,1.0")}
    assert seizures_of(record("a_eeg.edf", files)).events == [(20, 21)]


def test_windows_line_ends_a_byte_order_mark_and_latin_letters_are_read(record):
    recording = record("a_eeg.edf", {"a_events.tsv": ""})
    text = "\ufeff" + table((10, 1, "sz")).replace("\n", "\r\n")
    (recording.path.parent / "a_events.tsv").write_bytes(text.encode())
    assert seizures_of(recording).events == [(10, 11)]
    (recording.path.parent / "a_events.tsv").write_bytes(
        table((10, 1, "sz"), ("n/a", "n/a", "M\xfcdigkeit")).encode("latin-1")
    )
    assert seizures_of(recording).events == [(10, 11)]


def test_a_binary_or_unreadable_file_is_refused(record):
    recording = record("a_eeg.edf", {"a_events.tsv": "a\0b"})
    refused(recording, r"a_events\.tsv is not a text file")
    (recording.path.parent / "a_events.tsv").unlink()
    (recording.path.parent / "Seizures-list-PN00.txt").mkdir()
    refused(recording, r"Seizures-list-PN00\.txt cannot be read: Is a directory")


# BIDS


@pytest.mark.parametrize(
    "kind",
    [
        "sz",
        "sz_foc_ia",
        "SZ",
        "sz      ",
        "seizure",
        "sz_gen_m_tonicClonic",
        "Focal-onset-epileptic-seizure",
        "Episode/Epileptic-seizure/Focal-onset-epileptic-seizure/Aware-focal-onset-epileptic-seizure",
        "(Electrographic-seizure, Left)",
    ],
)
def test_seizure_types_of_bids_and_hed_score_are_seizures(record, kind):
    assert events_of(record, (10, 5, kind)) == [(10, 15)]


@pytest.mark.parametrize("kind", ["bckg", "Background"])
def test_background_says_that_there_is_no_seizure(record, kind):
    assert events_of(record, (0, "n/a", kind), ("n/a", "n/a", "eye-blink")) == []


@pytest.mark.parametrize(
    "kind", ["impd", "n/a", "pre-seizure", "non-epileptic-seizure", "Seizure-PNES", "spike", "szx"]
)
def test_other_events_say_nothing(record, kind):
    recording = record("a_eeg.edf", {"a_events.tsv": table((10, 5, kind))})
    assert seizures_of(recording) == Seizures(
        events=None, source="a_events.tsv names neither a seizure nor bckg", format=""
    )


@pytest.mark.parametrize("column", ["trial_type", "event_type", "EVENTTYPE", "event"])
def test_the_column_of_the_type_has_several_names(record, column):
    text = table(("x", 10, column, 5, "sz"), head=f"sample\tonset\tnote\t duration \t{column}")
    assert seizures_of(record("a_eeg.edf", {"a_events.tsv": text})).events == [(10, 15)]


def test_events_without_a_type_or_without_a_line_say_nothing(record):
    recording = record("a_eeg.edf", {"a_events.tsv": "onset\tduration\n10\t5\n"})
    assert seizures_of(recording).source == "a_events.tsv has no column eventType"
    (recording.path.parent / "a_events.tsv").write_text("\n")
    assert seizures_of(recording).source == "a_events.tsv is empty"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start\tduration\teventType\n", r"a_events\.tsv: line 1 names no column onset; it must head the table"),
        ("eventType\n", r"line 1 names no column duration and no onset"),
        (table((10, 5, "sz"), (20, 5)), r"line 3 has 2 columns, the head has 3; separate them by tabs"),
        (table(("n/a", 5, "sz")), r"line 2: the onset of a seizure is 'n/a', not a number of seconds"),
        (table((20, "n/a", "sz")), r"line 2: the duration of a seizure is 'n/a', not a number"),
        (table((20, "nan", "sz")), r"line 2: the duration of a seizure is 'nan', not a number"),
    ],
)
def test_a_malformed_events_file_is_refused_with_its_line(record, text, message):
    refused(record("a_eeg.edf", {"a_events.tsv": text}), message)


# TUSZ

TUSZ = """\
# version = csv_v1.0.0
# bname = aaaaaaac_s001_t000
# duration = 4000.00 secs
# montage_file = nedc_eas_default_montage.txt
#
channel,start_time,stop_time,label,confidence
{}
"""


def tusz(record, *lines, suffix="csv_bi"):
    return record("aaaaaaac_s001_t000.edf", {f"aaaaaaac_s001_t000.{suffix}": TUSZ.format("\n".join(lines))})


def test_the_lines_of_a_term_file_are_read(record):
    lines = [
        "TERM,0.0000,36.8868,bckg,1.0000",
        "TERM,36.8868,183.3055,seiz,1.0000",
        "TERM,183.3055,4000.0000,bckg,1.0000",
    ]
    found = seizures_of(tusz(record, *lines))
    assert found == Seizures(
        events=[(36.8868, 183.3055)], source="aaaaaaac_s001_t000.csv_bi (TUSZ)", format="TUSZ csv_bi"
    )


def test_the_channels_of_a_montage_file_are_united(record):
    lines = ["FP1-F7,10,50,cpsz,1.0", "F7-T3,40,60,fnsz,1.0", "T3-T5,0,4000,bckg,1.0", "T5-O1,100,120,gnsz,1.0"]
    assert seizures_of(tusz(record, *lines, suffix="csv")).events == [(10, 60), (100, 120)]


@pytest.mark.parametrize("label", sorted(TUSZ_SEIZURES | {"SEIZ"}))
def test_every_label_of_a_seizure_is_one(record, label):
    assert seizures_of(tusz(record, f"TERM,1,2,{label},1.0")).events == [(1, 2)]


def test_a_file_of_background_is_known_to_have_no_seizure(record):
    assert seizures_of(tusz(record, "TERM,0,4000,bckg,1.0")).events == []


def test_a_file_of_artefacts_says_nothing(record):
    found = seizures_of(tusz(record, "FP1-F7,0,40,eyem,1.0", suffix="csv"))
    assert found == Seizures(events=None, source="aaaaaaac_s001_t000.csv names neither a seizure nor bckg", format="")


def test_a_seizure_of_no_length_is_left_out(record):
    """aaaaapks_s016_t000 has one."""
    assert seizures_of(tusz(record, "TERM,0.0000,0.0000,seiz,1.0", "TERM,5,9,seiz,1.0")).events == [(5, 9)]


def test_a_table_of_somebody_else_is_not_taken_for_annotations(record):
    assert seizures_of(record("x.edf", {"x.csv": "time,heart rate\n1,2\n"})).events is None
    assert seizures_of(record("x.edf", {"x.csv": ""})).events is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["TERM,1,2,seiz"], r"csv_bi: line 7 has 4 columns, not channel,start_time,stop_time,label,confidence"),
        (["TERM,0,1,bckg,1.0", "TERM,one,2,seiz,1.0"], r"csv_bi: line 8: the start is 'one', not a number of seconds"),
        (["TERM,1,,seiz,1.0"], r"csv_bi: line 7: the stop is '', not a number"),
        (["TERM,9,5,seiz,1.0"], r"csv_bi: line 7: a seizure from 9 s to 5 s does not end after it begins"),
        (["TERM,3990,4001,seiz,1.0"], r"csv_bi: line 7: a seizure .* runs over the record"),
    ],
)
def test_a_malformed_line_of_tusz_is_refused(record, lines, message):
    refused(tusz(record, *lines), message)


@pytest.mark.parametrize(
    ("suffix", "text"), [("csv_bi", "TERM,1,2,seiz,1.0\n"), ("csv", "# version = csv_v1.0.0\n1,2\n")]
)
def test_a_file_of_tusz_without_its_head_is_refused(record, suffix, text):
    refused(record("x.edf", {f"x.{suffix}": text}), rf"x\.{suffix} has no line channel,start_time,stop_time,label")


# CHB-MIT

SUMMARY = """\
Data Sampling Rate: 256 Hz
*************************

Channels in EDF Files:
**********************
Channel 1: FP1-F7

File Name: chb09_06.edf
File Start Time: 17:26:52
File End Time: 21:26:58
Number of Seizures in File: 0

File Name: chb09_08.edf
File Start Time: 01:27:12
File End Time: 5:27:20
Number of Seizures in File: 2
Seizure 1 Start Time: 2951 seconds
Seizure 1 End Time: 3030 seconds
Seizure 2 Start Time:  3196 seconds
Seizure 1 End Time:   3267 seconds

Channels changed:
Channel 1: FP1-F7

File Name: chb09_19.edf
File Start Time: 13:43:04
File End Time: 14:43:04
Number of Seizures in File: 1
Seizure Start Time: 2996 seconds
Seizure End Time: 3036 seconds
"""


def chb(record, name, text=SUMMARY):
    return record(name, {"chb09-summary.txt": text})


@pytest.mark.parametrize(
    ("name", "events"),
    [
        ("chb09_06.edf", []),
        ("chb09_08.edf", [(2951, 3030), (3196, 3267)]),  # its second end is called the first, as it is in the corpus
        ("chb09_19.edf", [(2996, 3036)]),
        ("CHB09_19.EDF", [(2996, 3036)]),
    ],
)
def test_the_block_of_the_file_is_read(record, name, events):
    assert seizures_of(chb(record, name)) == Seizures(
        events=events, source="chb09-summary.txt (CHB-MIT summary)", format="CHB-MIT summary"
    )


def test_a_summary_that_does_not_name_the_file_says_nothing(record):
    assert seizures_of(chb(record, "chb09_01.edf")) == Seizures(
        events=None, source="chb09-summary.txt does not name it", format=""
    )


def test_a_file_with_a_plus_is_not_the_one_without(record):
    text = "File Name: chb02_16.edf\nNumber of Seizures in File: 0\nFile Name: chb02_16+.edf\n"
    text += "Number of Seizures in File: 1\nSeizure Start Time: 2972 seconds\nSeizure End Time: 3053 seconds\n"
    assert seizures_of(chb(record, "chb02_16.edf", text)).events == []
    assert seizures_of(chb(record, "chb02_16+.edf", text)).events == [(2972, 3053)]


def test_odd_spaces_a_missing_dot_and_missing_clock_times_are_read(record):
    text = "File  Name :  chb24_01edf \nNumber of  Seizures in File:2\n Seizure 1  Start Time : 480 seconds\n"
    text += "Seizure 1 End Time:  505   seconds\nSeizure2 Start Time: 2451.5\nseizure 2 end time: 2476seconds\n"
    assert seizures_of(chb(record, "chb24_01.edf", text)).events == [(480, 505), (2451.5, 2476)]


def test_a_file_that_is_named_without_a_number_of_seizures_is_unknown(record):
    found = seizures_of(chb(record, "chb09_06.edf", "File Name: chb09_06.edf\nFile Start Time: 17:26:52\n"))
    assert found == Seizures(events=None, source="chb09-summary.txt names it but not its number of seizures", format="")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("File: 2", "File: two", r"chb09-summary\.txt: line 16: the number of seizures is 'two'"),
        (
            "File: 2",
            "File: 3",
            r"chb09-summary\.txt: line 13: the file has 3 seizures by their number and 2 by their times",
        ),
        ("2951 seconds", "29:51", r"line 17: the start of a seizure is '29:51', not a number of seconds"),
        (
            "Seizure 1 End Time: 3030 seconds\n",
            "",
            r"line 17: a seizure begins that does not end; add its end after it",
        ),
        ("Seizure 1 End Time:   3267 seconds\n", "", r"line 19: a seizure begins that does not end"),
        (
            "Seizure 1 Start Time: 2951 seconds\n",
            "",
            r"line 17: a seizure ends that did not begin; add its start before",
        ),
        ("3030 seconds", "2030 seconds", r"line 17: a seizure from 2951 s to 2030 s does not end after it begins"),
        ("3267 seconds", "9267 seconds", r"line 19: a seizure from 3196 s to 9267 s runs over the record of 4000 s"),
    ],
)
def test_a_malformed_summary_is_refused_with_its_line(record, old, new, message):
    assert old in SUMMARY
    refused(chb(record, "chb09_08.edf", SUMMARY.replace(old, new, 1)), message)


def test_a_malformed_block_of_another_file_does_not_matter(record):
    assert seizures_of(chb(record, "chb09_19.edf", SUMMARY.replace("2951 seconds", "?"))).events == [(2996, 3036)]


# Siena

LIST = """\
PN00
Data Sampling Rate: 512 Hz
Channel 5: 1

Seizure n 1
File name: PN00-1.edf
Registration start time: 19.39.33
Registration end time:  20.22.58
Seizure start time: 19.58.36
Seizure end time: 19.59.46

Seizure n 2 (in sleep):
File name: PN00-2.edf
Registration start time:02.18.17
Registration end time: 02.56.19
Start time: 02:38:37
End time: 02:39.31
"""


def siena(record, name, text=LIST, start=START, **more):
    return record(name, {f"Seizures-list-{name[:4]}.txt": text}, start=start, **more)


def at(clock):
    return datetime.strptime(f"2016-01-01 {clock}", "%Y-%m-%d %H:%M:%S")


def test_clock_times_become_seconds_of_the_record(record):
    found = seizures_of(siena(record, "PN00-1.edf"))
    assert found == Seizures(
        events=[(1143, 1213)], source="Seizures-list-PN00.txt (Siena seizure list)", format="Siena seizure list"
    )
    assert seizures_of(siena(record, "PN00-2.edf", start=at("02:18:17"))).events == [(1220, 1274)]


def test_several_seizures_of_a_file_are_read_across_midnight(record):
    text = "Seizure n 1\nFile name: PN06-2.edf\nRegistration start time: 23.30.00\nRegistration end time: 00.30.00\n"
    text += "Seizure start time: 23.59.50\nSeizure end time: 00.00.20\nSeizure n 2\nFile name: PN06-2.edf\n"
    text += "Seizure start time: 00.10.00\nSeizure end time: 00.11.00\n"
    assert seizures_of(siena(record, "PN06-2.edf", text, at("23:30:00"))).events == [(1790, 1820), (2400, 2460)]


@pytest.mark.parametrize(
    ("listed", "name"),
    [
        ("PNO6-1.edf", "PN06-1.edf"),  # the letter O
        ("PN061.edf", "PN06-1.edf"),
        ("PN06-1", "PN06-1.edf"),
        ("PN06-1.edf   (sleep)", "PN06-1.edf"),
        ("PN06.edf", "PN06-1.edf"),  # the only file of the patient
        ("PN06-.edf", "PN06-1.edf"),
        ("pn10-4.5.6.edf", "PN10-4.5.6.edf"),
    ],
)
def test_misspelt_names_of_the_file_are_understood(record, listed, name):
    text = f"File name: {listed}\nRegistration start time: 19.39.33\n"
    text += "Seizure n 1\nStart time: 19.40.33\nEnd time: 19.41.33\n"
    assert seizures_of(siena(record, name, text)).events == [(60, 120)]


@pytest.mark.parametrize("listed", ["PN06.edf", "PN06-.edf"])
def test_a_name_without_its_number_is_nobodys_where_the_patient_has_two_files(record, listed):
    text = f"File name: {listed}\nSeizure start time: 19.40.33\nSeizure end time: 19.41.33\n"
    record("PN06-2.edf")
    assert seizures_of(siena(record, "PN06-1.edf", text)).source == "Seizures-list-PN06.txt does not name it"


def test_a_number_that_begins_like_another_is_not_that_one(record):
    text = "File name: PN10-1.edf\nSeizure start time: 19.40.33\nSeizure end time: 19.41.33\n"
    assert seizures_of(siena(record, "PN10-10.edf", text)).events is None


@pytest.mark.parametrize(
    ("start", "end", "events"),
    [
        ("1 9.40.33", "19. 41.33", [(60, 120)]),  # a space within, as in PN10
        ("19.40.33 (CLINICAL ONSET); 19.40.39 (ELECTRIC ONSET)", "19.41.33", [(66, 120)]),
        ("19.40.33 (CLINICAL ONSET)", "19.41.33", [(60, 120)]),
        ("19.40.33", "19.41.33 opure 19.41.13", [(60, 120)]),  # Italian: or
        ("19.39.33", "19.41.33", [(0, 120)]),
    ],
)
def test_what_else_stands_beside_a_time_is_understood(record, start, end, events):
    text = f"File name: PN10-3.edf\nSeizure start time: {start}\nSeizure end time: {end}\n"
    assert seizures_of(siena(record, "PN10-3.edf", text)).events == events


def test_the_hour_that_the_corpus_has_wrong_is_set_right(record):
    text = "File name: PN00-3.edf\nRegistration start time: 18.15.44\n"
    text += "Seizure start time: 18.28.29\nSeizure end time: 19.29.29\n"
    assert seizures_of(siena(record, "PN00-3.edf", text, at("18:15:44"))).events == [(765, 825)]


def test_the_start_in_the_header_counts_before_the_one_in_the_list(record):
    text = LIST.replace("19.39.33", "16.39.33")
    found = seizures_of(siena(record, "PN00-1.edf", text))
    assert found.events == [(1143, 1213)]
    assert found.source.endswith("(Siena seizure list, whose start is 10800 s off that of the file)")
    assert found.format == "Siena seizure list"


def test_the_start_in_the_list_counts_where_the_header_has_midnight(record):
    assert seizures_of(siena(record, "PN00-1.edf", start=at("00:00:00"))).events == [(1143, 1213)]


def test_a_fraction_of_a_second_in_the_header_is_no_day(record):
    text = "File name: PN00-1.edf\nSeizure start time: 19.39.33\nSeizure end time: 19.39.43\n"
    assert seizures_of(siena(record, "PN00-1.edf", text, START.replace(microsecond=500_000))).events == [(0, 9.5)]


def test_a_file_that_is_listed_without_a_seizure_is_unknown(record):
    found = seizures_of(siena(record, "PN00-1.edf", "File name: PN00-1.edf\nRegistration start time: 19.39.33\n"))
    assert found == Seizures(events=None, source="Seizures-list-PN00.txt names it but no seizure", format="")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("19.58.36", "about eight", r"PN00\.txt: line 9: 'about eight' has no time of day like 19\.58\.36 or 19:58:36"),
        ("19.58.36", "", r"PN00\.txt: line 9: '' has no time of day"),
        ("19.58.36", "29.58.36", r"PN00\.txt: line 9: '29\.58\.36' is no time of day"),
        ("19.58.36", "19.58.61", r"PN00\.txt: line 9: '19\.58\.61' is no time of day"),
        ("Seizure end time: 19.59.46\n", "", r"PN00\.txt: line 9: a seizure begins that does not end"),
        ("Seizure start time: 19.58.36\n", "", r"PN00\.txt: line 9: a seizure ends that did not begin"),
        ("19.59.46", "21.59.46", r"PN00\.txt: line 9: a seizure from 1143 s to 8413 s runs over the record"),
        ("19.58.36", "18.58.36", r"PN00\.txt: line 9: a seizure .* lies outside the record of 4000 s"),
        ("19.59.46", "19.57.46", r"PN00\.txt: line 9: a seizure .* runs over the record"),
    ],
)
def test_a_malformed_list_is_refused_with_its_line(record, old, new, message):
    refused(siena(record, "PN00-1.edf", LIST.replace(old, new, 1)), message)


def test_a_list_without_a_start_is_refused_where_the_header_has_none(record):
    text = LIST.replace("Registration start time: 19.39.33\n", "")
    refused(
        siena(record, "PN00-1.edf", text, at("00:00:00")),
        r"line 6: neither the list nor the header of PN00-1\.edf says when the recording starts; add a line",
    )


# EDF+ annotations


@pytest.mark.parametrize(
    ("marks", "events"),
    [
        ([(10.0, 5.0, "seizure")], [(10, 15)]),
        (
            [(10.0, 5.0, "Focal Seizure #2"), (20.0, 1.0, "sz_foc_ia"), (30.0, None, "eyes closed")],
            [(10, 15), (20, 21)],
        ),
        ([(10.0, None, "Seizure onset"), (70.0, None, "SEIZURE END")], [(10, 70)]),
        ([(10.0, 0.0, "seizure start"), (70.0, 0.0, "seizure offset")], [(10, 70)]),
        (
            [(10.0, None, "sz start"), (20.0, None, "sz stop"), (30.0, None, "sz start"), (40.0, None, "sz stop")],
            [(10, 20), (30, 40)],
        ),
        ([(10.0, 5.0, "seizure"), (12.0, None, "seizure")], [(10, 15)]),  # a button that was pressed
        ([(0.0, 4000.0, "bckg")], []),
    ],
)
def test_annotations_that_say_seizure_are_read(record, marks, events):
    found = seizures_of(record(annotations=marks))
    assert found == Seizures(events=events, source="rec.edf (EDF+ annotations)", format="EDF+ annotations")


@pytest.mark.parametrize(
    "text", ["no seizure", "Possible seizure", "non epileptic seizure", "post-seizure", "spikes", "szene"]
)
def test_annotations_that_deny_a_seizure_say_nothing(record, text):
    assert seizures_of(record(annotations=[(10.0, 5.0, text)])).events is None


def test_a_mark_without_a_duration_says_that_there_was_one_and_not_how_long(record):
    found = seizures_of(record(annotations=[(10.0, None, "Seizure"), (0.0, 4000.0, "bckg")]))
    assert found == Seizures(events=None, source="its annotation 'Seizure' at 10 s has no duration", format="")


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        (
            [(10.0, None, "seizure start")],
            r"rec\.edf: annotation 'seizure start' at 10 s: a seizure begins that does not end",
        ),
        (
            [(10.0, None, "seizure start"), (20.0, None, "seizure onset"), (30.0, None, "seizure end")],
            r"annotation 'seizure start' at 10 s: a seizure begins that does not end",
        ),
        (
            [(10.0, None, "seizure end")],
            r"rec\.edf: annotation 'seizure end' at 10 s: a seizure ends that did not begin",
        ),
        ([(3990.0, 100.0, "seizure")], r"rec\.edf: annotation 'seizure' at 3990 s: a seizure .* runs over the record"),
    ],
)
def test_annotations_that_are_not_whole_are_refused(record, marks, message):
    refused(record(annotations=marks), message)


def test_an_annotation_counts_from_the_first_sample(tmp_path):
    signal = edfio.EdfSignal(np.zeros(100), 1, label="Fz", physical_dimension="uV")
    marks = [edfio.EdfAnnotation(10, 5, "seizure")]
    edfio.Edf([signal], starttime=at("10:00:00").time().replace(microsecond=250_000), annotations=marks).write(
        tmp_path / "x.edf"
    )
    assert seizures_of(open_edf(tmp_path / "x.edf", ["Fz"], [])).events == [(10, 15)]


# what is written


def test_events_are_written_as_szcore_wants_them(tmp_path):
    path = tmp_path / "a_events.tsv"
    write_events(path, [(296, 336.5)], duration_s=3600, start=START, confidences=[0.875])
    assert path.read_text() == (
        "onset\tduration\teventType\tconfidence\tchannels\tdateTime\trecordingDuration\n"
        "296\t40.5\tsz\t0.875\tall\t2016-01-01 19:39:33\t3600\n"
    )
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_without_an_event_has_one_row_of_background(tmp_path):
    write_events(tmp_path / "a_events.tsv", [], duration_s=3600.5, start=None, confidences=None, event_type="sz_foc")
    assert (tmp_path / "a_events.tsv").read_text().splitlines()[1:] == ["0\t3600.5\tbckg\tn/a\tall\tn/a\t3600.5"]


def test_the_type_of_the_events_can_be_given(tmp_path):
    write_events(tmp_path / "x.tsv", [(1, 2)], duration_s=9, start=None, confidences=None, event_type="sz_foc_ia")
    assert "1\t1\tsz_foc_ia\tn/a\t" in (tmp_path / "x.tsv").read_text()


def test_events_that_cannot_be_written_are_said_to_and_nothing_is_left(tmp_path):
    with pytest.raises(DataError, match=r"x\.tsv cannot be written: No such file or directory; name a folder"):
        write_events(tmp_path / "no" / "x.tsv", [], duration_s=9, start=None, confidences=None)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def hour(tmp_path_factory):
    path = tmp_path_factory.mktemp("hour") / "a_eeg.edf"
    write_edf(path, np.zeros((3600, 1)), ["Fz"], 1, start=START, patient="X", annotations=[])
    return open_edf(path, ["Fz"], [])


@settings(max_examples=50, deadline=None)
@given(samples=st.lists(st.integers(0, 3600 * 256), unique=True, max_size=12))
def test_what_is_written_is_read_back(hour, samples):
    """Events that begin and end at samples at 256 Hz, apart from each other."""
    times = [sample / 256 for sample in sorted(samples)]
    events = list(zip(times[::2], times[1::2], strict=False))
    path = hour.path.with_name("a_events.tsv")
    write_events(path, events, duration_s=hour.duration_s, start=hour.start, confidences=None)
    assert seizures_of(hour) == Seizures(events=events, source="a_events.tsv (BIDS events)", format="BIDS events")
