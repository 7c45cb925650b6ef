"""The word lists of the Open ASR Leaderboard's normalizer: fillers, spellings, words in two parts, given names.

Facts, regrouped; from `normalizer/english_abbreviations.py` and `normalizer.py` of
https://github.com/huggingface/open_asr_leaderboard (Apache-2.0) at the commit that `open_asr.COMMIT` names.
"""

FILLERS = (
    "ah-ha",
    *("a+h+m*", "a+h+a+", "e+h+m*", "e+m+", "e+r+m*", "h+a+h+", "h+e+h+", "h+m+", "h+u+h+", "m{2,}", "m+h+m*"),
    *("t+s+k+", "u+g+h+", "u+h+m*", "u+h+u+[hm]*", "u+m+h*"),
    *("ahem", "eheh", "ehehe", "ehr", "hmmph", "hum", "hunh", "mhum", "mmkay"),
)
"""Regular expressions of words that say nothing, however drawn out; `ah-ha` first, as `ha` alone is no filler."""

SPELLINGS = {
    "archaeological": "archeological",
    "archaeology": "archeology",
    "cancellation": "cancelation",
    "cancellations": "cancelations",
    "etcetera": "etc",
    "flyer": "flier",
    "kay": "okay",
    "mm": "hmm",
    "ok": "okay",
    "pummelled": "pummeled",
    "pummelling": "pummeling",
    "snowploughs": "snowplows",
    "travelogue": "travelog",
    "travelogues": "travelogs",
}
"""British to American spellings that whisper-normalizer's table lacks or has otherwise."""

TURNED_ROUND = ("archeological", "cancelation", "cancelations", "flyer / flier", "travelog", "travelogs")
"""Spellings that whisper-normalizer's table replaces and the leaderboard's does not."""

IN_TWO_PARTS = {
    "et cetera": "etc",
    "al right": "alright",
    "all right": "alright",
    "how ever": "however",
    "wi fi": "wifi",
    "hi fi": "hifi",
    "lo fi": "lofi",
    "sci fi": "scifi",
    "e mail": "email",
    "e book": "ebook",
    "e commerce": "ecommerce",
    "x ray": "xray",
    "t shirt": "tshirt",
    "a m": "am",
    "p m": "pm",
    "o k": "okay",
}
"""Words written in two parts, once hyphens are blanks."""

_NAMES = """
aaron: aron
alfonso: alphonso
alison: allison alyson
allen: alan allan
anne: ann
anthony: antony
arthur: artur
brett: bret
brian: bryan
bridget: bridgette
caitlin: kaitlin kaitlyn katelyn
carl: karl
carol: carole carrol carroll
catherine: catharine katherine kathryn
cathy: kathy
charlie: charley charly
chris: kris
christina: kristina
christopher: cristopher kristopher
colin: collin
deborah: devorah
dennis: denis
dominic: dominick
douglas: douglass
dylan: dillon
eric: erick erik
fatima: fatimah
frederick: frederik fredrick
gail: gayle
gary: garry
greg: gregg
henry: henri
ivonne: yvonne
jackie: jacky
jamie: jaime
jason: jayson
jeff: geoff
jeffrey: geoffrey jeffery
joanne: joane joann
john: jon
jonathan: johnathan jonathon
joseph: josef
karen: caren caryn karin
kelly: kelley kelli kellye
kevin: kevan
kristin: kristen
laurie: lori
lawrence: laurence
lee: leigh
leslie: lesley
lily: lilly
linda: lynda
lindsay: lindsey linsey
louis: lewis
lucas: lukas
lynn: lynne
mark: marc
martin: martyn
matthew: mathew
mcarthur: macarthur
mccarthy: macarthy maccarthy
mccartney: macartney
mcdonald: macdonald
mcgowan: macgowan
mcintosh: macintosh
mcintyre: macintyre
mckay: mackay
mckenzie: mackenzie
mclean: maclean
mcleod: macleod
mcmillan: macmillan
mcnamara: macnamara
megan: meghan
michael: micheal
michelle: michele
miriam: myriam
mohammed: mahomet mohamad mohamed mohammad mouhamad mouhamed muhamad muhammad muhammed
molly: mollie
natalie: nathalie
neil: neal
nicholas: nicolas
nicole: nikole
patrick: patrik
peter: pieter
philip: phillip
rachel: rachael
rajiv: rajeev
rebecca: rebekah
rob: robb
robin: robyn
roger: rodger
ronda: rhonda
russell: russel
sally: sallie
sarah: sara
sean: shaun shawn
shane: shayne
sherry: cheri sheri sherrie
simon: symon
stacy: stacey stacie
steven: stephen
stuart: stewart
susanne: suzanne
teresa: theresa
terry: terri
thomas: tomas
toby: tobey
tony: toni
tracy: tracey tracie
veronica: veronika
victor: viktor
victoria: viktoria
walter: walther
yousef: yusef yusuf
zach: zak
zachary: zachery zackary
"""

NAMES = {
    other: name
    for name, _, others in (line.partition(": ") for line in _NAMES.strip().splitlines())
    for other in others.split()
}
"""Another spelling of a given or family name to the one that stands for all."""
