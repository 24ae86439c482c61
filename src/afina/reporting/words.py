"""Every text of the page and of the model card, in each language. The keys are the same in all of them.

``{name}`` is the place of a value; a text with places is only ever asked for with their values. Names that
other stages write have the key ``GROUP.name``: a column of slices.csv, a reason in cleaning.json.
"""

from __future__ import annotations

from collections.abc import Mapping

ES = {
    # The page
    "title": "Clasificador de mensajes",
    "page_title": "{title}: informe de resultados",
    "subtitle": "Informe de resultados",
    "contents": "Contenido",
    "skip": "Ir al contenido",
    "private": "Esta página cita mensajes reales. Compártala solo con quienes pueden leerlos.",
    "made_by": "Informe generado por afina {version}. Los mismos datos dan siempre el mismo informe.",
    "none_label": "(ninguna)",
    "other_labels": "(las demás)",
    "message.one": "{n} mensaje",
    "message.many": "{n} mensajes",
    "class.one": "{n} clase",
    "class.many": "{n} clases",
    "between": "{low} y {high}",
    "few": "pocos casos",
    # Headline
    "headline_multiclass": (
        "El modelo pone la clase correcta a {share} de cada 100 mensajes (entre {low} y {high}, con una "
        "confianza del {level}), según la prueba con {messages} que no había visto."
    ),
    "headline_multiclass_no_interval": (
        "El modelo pone la clase correcta a {share} de cada 100 mensajes, según la prueba con {messages} "
        "que no había visto."
    ),
    "headline_multilabel": (
        "Las clases que el modelo asigna coinciden con las correctas en {share} puntos de 100 (F1; entre "
        "{low} y {high}, con una confianza del {level}), según la prueba con {messages} que no había "
        "visto."
    ),
    "headline_multilabel_no_interval": (
        "Las clases que el modelo asigna coinciden con las correctas en {share} puntos de 100 (F1), según "
        "la prueba con {messages} que no había visto."
    ),
    "tile_accuracy": "Aciertos",
    "tile_micro_f1": "F1 de todas las decisiones",
    "tile_macro_f1": "F1 promedio de las clases",
    "tile_subset_accuracy": "Mensajes con todas sus clases correctas",
    "tile_coverage": "Responde solo (meta: {target} de aciertos)",
    "tile_test": "Mensajes de prueba",
    "tile_coverage_note": "el resto va a una persona",
    "tile_interval": "entre {interval}",
    "tile_classes": "de {classes}",
    # Trust
    "trust": "¿Se puede confiar en él?",
    "trust_intro": (
        "Un modelo vale la pena si supera a otros más simples con los mismos mensajes de prueba. La barra "
        "es el F1 promedio de las clases; la línea fina, su intervalo del {level}. Un punto es una "
        "centésima de F1."
    ),
    "trust_better": (
        "El modelo ajustado supera al modelo lineal clásico (TF-IDF): {difference} puntos de F1 promedio "
        "más (intervalo de {low} a {high})."
    ),
    "trust_worse": (
        "El modelo ajustado queda por debajo del modelo lineal clásico (TF-IDF): {difference} puntos de F1 "
        "promedio menos (intervalo de {low} a {high}). Conviene usar el modelo simple o revisar el "
        "entrenamiento."
    ),
    "trust_unclear": (
        "Con estos mensajes de prueba no se puede decir que el modelo ajustado sea mejor ni peor que el "
        "modelo lineal clásico (TF-IDF): la diferencia es de {difference} puntos de F1 promedio (intervalo "
        "de {low} a {high})."
    ),
    "model": "Modelo",
    "difference": "Ventaja del ajustado",
    "difference_interval": "Intervalo de la ventaja",
    "signed_interval": "{low} a {high}",
    "verdict": "El ajustado es…",
    "model.fine-tuned": "Ajustado (este modelo)",
    "model.tfidf": "Lineal clásico (TF-IDF)",
    "model.majority": "Responder siempre la clase más frecuente",
    "model.untrained": "Modelo base sin ajustar",
    "model.probe": "Modelo base sin ajustar, con un clasificador lineal encima",
    "verdict.better": "mejor",
    "verdict.worse": "peor",
    "verdict.no evidence": "sin diferencia demostrada",
    "verdict.too little data": "faltan datos para decirlo",
    "verdict.the same predictions": "igual: las mismas respuestas",
    "verdict.data changed": "no comparable",
    # Data
    "data": "Con qué se entrenó",
    "fact_task": "Tarea",
    "task.multiclass": "una clase por mensaje",
    "task.multilabel": "ninguna, una o varias clases por mensaje",
    "fact_sources": "Fuentes",
    "fact_period": "Período de los mensajes",
    "period": "{first} a {last}",
    "month": "{month} de {year}",
    "months": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "fact_rows": "Mensajes utilizados",
    "rows_used": "{clean} de {raw} leídos",
    "fact_split": "Reparto",
    "split_rows": "{train} para entrenar, {validation} para ajustar decisiones, {test} para la prueba",
    "fact_classes": "Clases",
    "class_sizes": "{classes}, de {smallest} a {largest} mensajes",
    "fact_backbone": "Modelo base",
    "backbone_licence": "{backbone} (licencia {licence})",
    "licence_unknown": "desconocida",
    "backbone_unknown": "un modelo base desconocido",
    "fact_training": "Entrenamiento",
    "training_epochs": "se conservó la vuelta {best} de {epochs}",
    "fact_imbalance": "Manejo de las clases desiguales",
    "strategy.none": "ninguno",
    "strategy.oversample": "se repiten mensajes de las clases pequeñas",
    "strategy.undersample": "se omiten mensajes de las clases grandes",
    "strategy.class_weights": "los errores en clases pequeñas pesan más",
    "fact_length": "Largo de los mensajes",
    "words_of": "{p50} palabras en la mediana; uno de cada veinte pasa de {p95}",
    "fact_truncated": "Mensajes de prueba más largos que lo que lee el modelo base",
    "funnel": "Mensajes que no se usaron",
    "funnel_intro": "Cada mensaje apartado tiene un motivo. La lista completa está en {file}.",
    "reason_column": "Motivo",
    "rows_column": "Mensajes",
    "reason.empty text": "texto vacío",
    "reason.too few words": "muy pocas palabras",
    "reason.no label": "sin clase",
    "reason.label dropped": "clase descartada a propósito",
    "reason.several labels": "varias clases donde cabe una",
    "reason.duplicate": "repetido",
    "reason.conflicting labels": "el mismo texto con clases distintas",
    "reason.merged": "repetido; sus clases se sumaron al que queda",
    "reason.rare label": "clase con muy pocos mensajes o fuera de las elegidas",
    "reason.other label in another split": "el mismo texto con otra clase en otra parte del reparto",
    "sizes": "Mensajes por clase",
    "lengths": "Largo de los mensajes, en palabras",
    "lengths_alt": (
        "Histograma: cuántos mensajes hay de cada largo, en palabras. El tramo más común empieza en {mode}."
    ),
    "lengths_pooled": "La última barra reúne también los mensajes más largos.",
    "words_axis": "palabras",
    "messages_axis": "mensajes",
    # Classes
    "classes": "Resultados por clase",
    "classes_intro": (
        "De mejor a peor F1. La barra es el F1 y la línea fina su intervalo del {level}: cuanto más larga, "
        "menos se sabe. Precisión: de lo que el modelo puso en la clase, cuánto era de ella. "
        "Exhaustividad: de lo que era de la clase, cuánto encontró."
    ),
    "few_explained": (
        "«Pocos casos» marca las clases con menos de {limit} mensajes de prueba: sus cifras dicen muy "
        "poco, cualquiera que sea su intervalo."
    ),
    "label": "Clase",
    "bar": "F1 e intervalo",
    "f1": "F1",
    "interval": "Intervalo",
    "precision": "Precisión",
    "recall": "Exhaustividad",
    "support": "Mensajes de prueba",
    "train_rows": "Mensajes para entrenar",
    "baseline_f1": "F1 del lineal",
    "threshold": "Umbral",
    "precision_recall": "Cuánto se acierta según cuánto se encuentra",
    "precision_recall_alt": (
        "Curvas de precisión y exhaustividad. Donde se encuentra el {recall} de los mensajes de cada "
        "clase, la precisión promedio es del {average}."
    ),
    "precision_recall_note": (
        "Si se exige menos probabilidad para señalar una clase, se encuentran más de sus mensajes, pero "
        "entre lo señalado hay más de otras. Para encontrar el {recall} de cada clase, la precisión "
        "promedio es del {average}; la de «{label}», del {lowest}. Llevan su nombre las clases más "
        "difíciles."
    ),
    "recall_axis": "parte encontrada (exhaustividad)",
    "precision_axis": "precisión",
    "curve.macro average": "promedio de las clases",
    "curve.micro average": "todas las decisiones juntas",
    "curve_few": "{label} (pocos casos)",
    # Confusion
    "confusion": "Qué se confunde con qué",
    "matrix": "Matriz de confusión",
    "matrix_intro": (
        "Cada fila es la clase verdadera; cada columna, la que dijo el modelo, con el número de la clase. "
        "Los aciertos están en la diagonal, recuadrados; fuera de ella, en otro color, los errores. El "
        "tono indica la parte de la fila."
    ),
    "matrix_multilabel": (
        "Con varias clases por mensaje, cada clase omitida se empareja con cada clase puesta de más en el "
        "mismo mensaje; «(ninguna)» indica que no hubo con qué emparejarla."
    ),
    "matrix_cut": "Se muestran las {shown} clases con más errores; las otras {rest} están juntas.",
    "matrix_corner": "Verdadera ↓  Modelo →",
    "matrix_cell": "{actual} → {predicted}: {messages}",
    "pairs": "Confusiones más frecuentes",
    "pairs_intro": (
        "De la más frecuente a la menos, con {most} de cada una como máximo: aquellos en que el modelo se "
        "equivocó con más seguridad."
    ),
    "pairs_intro_plain": "De la más frecuente a la menos.",
    "actual": "Clase verdadera",
    "predicted": "El modelo dijo",
    "times": "Veces",
    "share_of_class": "Parte de la clase",
    "example": "Ejemplos",
    "no_confusions": "El modelo no se equivocó en ningún mensaje de prueba.",
    # Confidence
    "confidence": "Cuándo dejar que responda solo",
    "abstain": (
        "Si el modelo responde solo cuando su confianza es de {threshold} o más, responde el {coverage} de "
        "los mensajes de prueba y acierta en el {accuracy} de ellos (entre {interval}); los demás van a "
        "una persona. Ese límite se eligió, con otros mensajes, para acertar en el {target}."
    ),
    "abstain_all": (
        "El modelo puede responder todos los mensajes: acierta en el {accuracy} de ellos (entre "
        "{interval}), y la meta era el {target}."
    ),
    "abstain_unknown": (
        "Desde qué confianza acierta en el {target} de las respuestas no se sabe: se mide con los mensajes "
        "de validación, y {rows} son pocos; hacen falta al menos {least}. Hasta entonces, todos los mensajes "
        "van a una persona."
    ),
    "abstain_never": (
        "Ninguna confianza basta para acertar en el {target} de las respuestas: con esa meta, todos los "
        "mensajes van a una persona."
    ),
    "abstain_unreached": (
        "Desde una confianza de {threshold} acierta, según otros mensajes, en el {target} de las respuestas. "
        "Ningún mensaje de prueba llega a ella, así que no se sabe en cuántas acertaría; los que no llegan "
        "van a una persona."
    ),
    "abstain_test": (
        "En los mensajes de prueba, la mayor parte que se puede responder con {target} de aciertos es el "
        "{coverage}."
    ),
    "risk_coverage": "Aciertos según cuánto responde",
    "risk_coverage_alt": (
        "Curva de aciertos según la parte de los mensajes que responde. Respondiendo todos acierta en "
        "{full}; la línea horizontal marca la meta de {target}."
    ),
    "coverage_axis": "parte de los mensajes que responde",
    "accuracy_axis": "aciertos",
    "answers": "aciertos de lo respondido",
    "target": "meta: {target}",
    "chosen": "límite elegido",
    "reliability": "¿La confianza que declara es real?",
    "reliability_alt": (
        "Diagrama de fiabilidad: probabilidad declarada frente a la parte que resultó cierta. La diagonal "
        "es la fiabilidad perfecta."
    ),
    "stated_axis": "probabilidad declarada",
    "true_axis": "parte que resultó cierta",
    "state.perfect": "perfecta",
    "state.as trained": "antes de calibrar",
    "state.calibrated": "calibrada",
    "state.uncalibrated": "sin calibrar",
    "calibration_both": (
        "En promedio, la confianza declarada se aparta {after} puntos porcentuales de lo que resulta "
        "cierto; antes de calibrar se apartaba {before}."
    ),
    "calibration_one": (
        "En promedio, la confianza declarada se aparta {after} puntos porcentuales de lo que resulta cierto."
    ),
    "training": "Cómo aprendió",
    "training_intro": (
        "Una vuelta (época) es una pasada por todos los mensajes de entrenamiento; la pérdida es el error "
        "que el entrenamiento reduce. Si los mensajes de validación dejan de mejorar mientras los de "
        "entrenamiento siguen, el modelo empieza a memorizar. Se conserva la vuelta con mejor F1 promedio "
        "en validación."
    ),
    "loss": "Pérdida por vuelta",
    "macro_f1_by_epoch": "F1 promedio por vuelta",
    "training_alt": "{name}: entrenamiento {train}, validación {validation} en la última vuelta.",
    "epoch_axis": "vuelta",
    "loss_axis": "pérdida",
    "series_train": "entrenamiento",
    "series_validation": "validación",
    # Slices
    "slices": "Dónde falla más",
    "slices_intro": (
        "Grupos de mensajes de prueba, del peor al mejor según el extremo superior de su intervalo. "
        "«Esperado» es lo que correspondería al grupo por las clases que contiene; si todo el intervalo "
        "queda debajo, hay algo más que las clases."
    ),
    "slices_shown": "{shown} de {all} grupos; todos están en reports/slices.csv.",
    "slice": "Grupo",
    "slice_by": "Según",
    "bar_slice": "Puntaje e intervalo",
    "score.accuracy": "Aciertos",
    "score.micro_f1": "F1",
    "expected": "Esperado",
    "remark": "Observación",
    "below_expected": "peor que lo esperado",
    "column.source": "fuente",
    "column.length": "largo",
    "column.month": "mes",
    "column.truncated": "si cabe entero",
    "value.(none)": "(sin dato)",
    "value.truncated.yes": "no cabe entero en el modelo base",
    "value.truncated.no": "cabe entero en el modelo base",
    "unit.word": "palabra",
    "unit.words": "palabras",
    # Behaviour
    "behaviour": "Cómo reacciona a cambios en el mensaje",
    "behaviour_high": (
        "«Sobre el límite» marca las pruebas en que falla una parte mayor que la admitida "
        "(behave.max_changed)."
    ),
    "above_limit": "sobre el límite",
    "invariance": "El mismo mensaje, escrito de otra manera",
    "invariance_result": (
        "Se probaron {copies} copias que dicen lo mismo que el mensaje original. En {failures} de ellas "
        "({share}) el modelo cambió de respuesta."
    ),
    "invariance_intro": (
        "Cada fila es una prueba: se toman mensajes de prueba, se les cambia algo que no altera lo que "
        "dicen, por ejemplo se quitan las tildes, y se mira si la respuesta sigue siendo la misma, sea o "
        "no la correcta. La barra es la parte de las copias en que cambió, con su intervalo del {level}; "
        "entera equivale al {full}."
    ),
    "invariance_none": "Ningún mensaje tenía algo que cambiar.",
    "change": "Qué se cambió",
    "change.upper_case": "Todo en mayúsculas",
    "change.lower_case": "Todo en minúsculas",
    "change.no_accents": "Sin tildes: «pensión» pasa a «pension»",
    "change.greeting": "Con un saludo al comienzo",
    "change.farewell": "Con una despedida al final",
    "change.email": "Con una dirección de correo intercalada",
    "change.phone": "Con un número de teléfono intercalado",
    "change.url": "Con una dirección web intercalada",
    "change.double_spaces": "Con dos espacios entre las palabras",
    "change.line_breaks": "Con una línea en blanco entre las oraciones",
    "change.typo": "Con una palabra mal escrita en cada oración",
    "change.trailing_dots": "Con puntos suspensivos al final",
    "change.html_entities": "Con códigos de página web: «ñ» pasa a «&ntilde;»",
    "change.label_named": "Con el nombre de su clase al comienzo",
    "share_failed": "Parte que falla",
    "share_failed_short": "Fallan",
    "failures": "Fallos",
    "of_tried": "{failures} de {rows}",
    "not_tried": "nada que cambiar",
    "right_to_wrong": "De acierto a error",
    "wrong_to_right": "De error a acierto",
    "directional": "El mensaje, con una pista clara",
    "directional_intro": (
        "Con la pista el modelo debería estar más seguro de la clase del mensaje, o al menos igual. Falla "
        "si le da a esa clase más de {points} puntos porcentuales menos de probabilidad. La barra entera "
        "equivale al {full}."
    ),
    "cases": "Mensajes fáciles, escritos para la prueba",
    "cases_intro": (
        "Una persona escribió mensajes sencillos y anotó la clase que corresponde a cada uno. El modelo "
        "pasa {passed} de {total}."
    ),
    "case": "Caso",
    "case_expected": "Se esperaba",
    "or": "o",
    "cases_passed": "Sin fallos: {names}.",
    "and_more": "{names} y {more} más",
    "failures_heading": "Algunos fallos",
    "failures_intro": (
        "Son {shown} de {total}, de todas las pruebas que tienen fallos; la lista completa está en {file}. "
        "Lo que difiere entre los dos textos va resaltado y subrayado, salvo que sea casi todo."
    ),
    "failures_intro_all": (
        "Son los {total} que hay, como en {file}. Lo que difiere entre los dos textos va resaltado y "
        "subrayado, salvo que sea casi todo."
    ),
    "message_before": "Mensaje original",
    "message_after": "Copia alterada",
    "answered": "El modelo dijo: {names}",
    "quoted": "«{name}»",
    "probability_of": "Probabilidad de {name}",
    "watched_own": "su propia clase",
    "watched_top": "la clase más probable",
    "from_to": "{before} → {after}",
    # Explanations
    "explanations": "Qué palabras pesaron",
    "explanations_intro": (
        "En cada mensaje se marcan las palabras que más influyeron. Las de fondo azul y línea continua "
        "acercaron al modelo a la clase que le pareció más probable; las de fondo naranja y línea de puntos "
        "lo alejaron de ella. El tono compara las palabras de un mismo mensaje. Debajo van las más fuertes, "
        "con lo que suman o restan al puntaje de la clase; si el mensaje está cortado, pueden quedar en lo "
        "que no se ve."
    ),
    "legend_for_much": "acercó mucho",
    "legend_for_little": "acercó un poco",
    "legend_against_little": "alejó un poco",
    "legend_against_much": "alejó mucho",
    "explanations_note": (
        "Es una cuenta hecha sobre el modelo ({method}), no un razonamiento. Muestra en qué se apoyó esta "
        "respuesta; no dice si debía apoyarse en eso, ni qué respondería con otras palabras, y lo que "
        "varias palabras dicen juntas lo reparte entre ellas. Sirve para notar que el modelo se fija en "
        "algo que no corresponde, como un nombre o una firma. No prueba que una respuesta sea correcta."
    ),
    "method.integrated gradients": "gradientes integrados",
    "method_steps": "{method}, {steps} pasos",
    "explained_mistakes": "Errores",
    "explained_random": "Otros mensajes, al azar",
    "explained_right": "Dijo «{predicted}» ({probability}), y acertó",
    "explained_wrong": "Dijo «{predicted}» ({probability}); era «{actual}»",
    "explained_other": "Clase más probable: «{predicted}» ({probability}); correctas: {actual}",
    "words_for": "A favor",
    "words_against": "En contra",
    "no_words": "ninguna palabra",
    "rough": "Aproximado",
    "rough_by": "la suma se aparta un {error} de lo que debería dar",
    # Labels
    "labels": "Etiquetas que conviene revisar",
    "issues": "Mensajes cuya clase parece equivocada",
    "issues_intro": (
        "Modelos que no habían visto cada mensaje dudan de la clase que trae. Son sospechas, no certezas: "
        "una persona debe decidir. Aquí van los primeros {shown} de {total}; la lista completa está en "
        "{file}."
    ),
    "issues_none": "La lista de etiquetas dudosas está vacía.",
    "given": "Clase en los datos",
    "suggested": "Parece ser",
    "split": "Parte",
    "split.train": "entrenamiento",
    "split.validation": "validación",
    "split.test": "prueba",
    "doubted_by": "Lo dudan",
    "doubter.linear": "el lineal",
    "doubter.fine-tuned": "el ajustado",
    "text": "Mensaje",
    "similar": "Clases que parecen una sola",
    "similar_intro": (
        "Pares de clases que un modelo lineal confunde y cuyos mensajes usan palabras parecidas. El "
        "parecido va de 0 a 1."
    ),
    "similar_none": "La lista de clases que parecen una sola está vacía.",
    "other": "Y clase",
    "alike": "Parecido",
    "goes_to_other": "De la primera a la segunda",
    "comes_back": "De la segunda a la primera",
    "advice": "Qué hacer",
    "advice.merge": "Casi no se distinguen: únalas, o revise las etiquetas de ambas.",
    "advice.absorbed": "«{lost}» se pierde dentro de «{taker}»: únala a ella, o reúna más mensajes suyos.",
    "advice.overlap": (
        "Se superponen: defina por escrito qué las distingue y revise los mensajes dudosos de ambas."
    ),
    # Mistakes
    "mistakes": "Errores con más seguridad",
    "mistakes_intro": (
        "Los mensajes de prueba en que el modelo se equivocó estando más seguro. A menudo lo que está mal "
        "es la clase de los datos, no el modelo."
    ),
    "sureness": "Confianza",
    # Limits
    "limits": "Lo que estas cifras no dicen",
    "limit_period": (
        "Valen para mensajes como los usados, de {first} a {last}. Si cambian los temas, los formularios o "
        "la forma de escribir, el modelo puede empeorar sin aviso: mida de nuevo cada cierto tiempo con "
        "mensajes recientes."
    ),
    "limit_drift": (
        "Valen para mensajes como los usados. Si cambian los temas, los formularios o la forma de "
        "escribir, el modelo puede empeorar sin aviso: mida de nuevo cada cierto tiempo con mensajes "
        "recientes."
    ),
    "limit_other_topics_multiclass": (
        "El modelo elige siempre una de sus {classes}, también para un mensaje que no es de ninguna. De "
        "los datos se apartaron {dropped} por su clase; en el uso real esos mensajes seguirán llegando."
    ),
    "limit_other_topics_multiclass_none": (
        "El modelo elige siempre una de sus {classes}, también para un mensaje que no es de ninguna."
    ),
    "limit_other_topics_multilabel": (
        "El modelo conoce solo sus {classes}. Los mensajes de otros temas pueden recibir alguna de ellas."
    ),
    "limit_labels": (
        "La prueba se corrige con las etiquetas de los datos, y algunas parecen equivocadas: en la lista "
        "de etiquetas dudosas hay {messages} de la prueba. El acierto real puede ser algo mayor o menor "
        "que el medido."
    ),
    "limit_labels_plain": (
        "La prueba se corrige con las etiquetas de los datos, y algunas pueden estar mal: el acierto real "
        "puede ser algo mayor o menor que el medido."
    ),
    "limit_small": "Clases con muy pocos mensajes de prueba, cuyas cifras casi no informan: {names}.",
    "limit_truncated": (
        "El {share} de los mensajes de prueba no cabe entero en el modelo base, que lee {tokens} fragmentos "
        "de palabra: lo que sigue lo ve, a lo sumo, la parte lineal del modelo."
    ),
    "limit_interval": (
        "Los intervalos dicen cuánto dependen las cifras de qué mensajes cayeron en la prueba. No incluyen "
        "lo que variaría al entrenar de nuevo."
    ),
    "limit_confidence": (
        "La confianza es fiable en promedio, no mensaje por mensaje. Las decisiones que afectan a una "
        "persona no deberían depender solo del modelo."
    ),
    "limit_confidence_raw": (
        "La confianza no está calibrada: puede ser mayor o menor que la parte en que acierta, también en "
        "promedio. Las decisiones que afectan a una persona no deberían depender solo del modelo."
    ),
    # Use
    "use": "Cómo usar el modelo",
    "use_intro": (
        "El modelo es un solo archivo: dentro van la limpieza de textos, las clases y las probabilidades "
        "calibradas. Funciona sin conexión a internet."
    ),
    "use_intro_raw": (
        "El modelo es un solo archivo: dentro van la limpieza de textos, las clases y las probabilidades, "
        "que no están calibradas. Funciona sin conexión a internet."
    ),
    "file": "Archivo",
    "size": "Tamaño",
    "megabytes": "{n} MB",
    "remarks": "Comprobación",
    "file_fp32": "mismas clases que el modelo entrenado en {texts} de prueba; diferencia máxima {difference}",
    "file_int8": (
        "versión reducida: las mismas respuestas en el {agreement} de los mensajes; el F1 promedio cambia "
        "{change} puntos"
    ),
    "file_fp16": "versión para tarjetas gráficas: diferencia máxima {difference}",
    "file_int8_none": (
        "No hay versión reducida de 8 bits: ninguna de las {variants} formas probadas conserva las "
        "respuestas del modelo."
    ),
    "use_command": "En una terminal, con una planilla en CSV que tiene una columna «texto»:",
    "use_python": "En Python:",
    "use_sample": "Escriba aquí el mensaje",
    "use_column": "texto",
    "use_csv": "mensajes.csv",
    "use_out": "clasificados.csv",
    "use_doubtful": "para revisar",
    "use_other": "Desde otro lenguaje: {file} explica las entradas y salidas del modelo.",
    # Figures
    "figures": "Todas las cifras de la prueba",
    "figures_intro": (
        "Sobre los mensajes de prueba, salvo indicación contraria; macro: promedio simple de las clases."
    ),
    "measure": "Medida",
    "value": "Valor",
    "measure.macro_f1": "F1 macro",
    "measure.micro_f1": "F1 micro",
    "measure.weighted_f1": "F1 ponderado",
    "measure.samples_f1": "F1 por mensaje",
    "measure.accuracy": "Aciertos (exactitud)",
    "measure.subset_accuracy": "Todas las clases correctas",
    "measure.macro_precision": "Precisión macro",
    "measure.micro_precision": "Precisión micro",
    "measure.weighted_precision": "Precisión ponderada",
    "measure.macro_recall": "Exhaustividad macro",
    "measure.micro_recall": "Exhaustividad micro",
    "measure.weighted_recall": "Exhaustividad ponderada",
    "measure.validation": "{name}, en validación",
    "measure.ece": "Error de calibración (ECE)",
    "measure.brier": "Error cuadrático de las probabilidades (Brier)",
    # Glossary
    "glossary": "Glosario",
    "term_test": "Mensajes de prueba",
    "means_test": (
        "Mensajes apartados desde el comienzo. El modelo no los vio al aprender, así que muestran cómo le "
        "irá con mensajes nuevos."
    ),
    "term_f1": "F1",
    "means_f1": (
        "Nota de 0 a 1 para una clase, que combina precisión y exhaustividad: solo es alta si ambas lo son."
    ),
    "term_macro": "F1 promedio (macro)",
    "means_macro": "El promedio del F1 de las clases. Cada clase cuenta igual, tenga 30 mensajes o 3.000.",
    "term_precision": "Precisión y exhaustividad",
    "means_precision": (
        "Precisión: cuánto de lo que el modelo puso en una clase era de ella. Exhaustividad (recall, en "
        "inglés): cuánto de lo que era de la clase encontró."
    ),
    "term_interval": "Intervalo",
    "means_interval": (
        "El rango en que probablemente está la cifra verdadera. Con pocos mensajes de prueba el rango es "
        "ancho."
    ),
    "term_calibration": "Calibración",
    "means_calibration": (
        "Un modelo está bien calibrado si, de los mensajes a los que da una confianza del 80 %, acierta en "
        "unos 80 de cada 100."
    ),
    "term_coverage": "Cobertura",
    "means_coverage": (
        "La parte de los mensajes que el modelo responde solo. Si se le exige más confianza, responde "
        "menos y acierta más."
    ),
    "term_confusion": "Matriz de confusión",
    "means_confusion": (
        "Tabla que cuenta cuántos mensajes de cada clase puso el modelo en cada una de las clases."
    ),
    "term_invariance": "Invariancia",
    "means_invariance": (
        "Dar la misma respuesta cuando cambia algo que no importa. Un modelo es invariante a las tildes si "
        "responde igual con ellas y sin ellas."
    ),
    "term_baseline": "Modelo lineal (TF-IDF)",
    "means_baseline": (
        "Un método clásico que cuenta palabras. Es rápido y difícil de superar; por eso sirve de referencia."
    ),
    "term_drift": "Deriva",
    "means_drift": (
        "El cambio de los mensajes con el tiempo, que vuelve menos acertado a un modelo que no cambia."
    ),
    # Model card
    "card_intro": (
        "Clasificador de textos en un solo archivo ONNX, ajustado a partir de {backbone}. Distingue "
        "{classes} ({task})."
    ),
    "card_use": "Uso previsto",
    "card_use_text": (
        "Ordenar mensajes como los de entrenamiento: derivarlos, priorizarlos o contarlos, con una persona "
        "que revise los dudosos. No está pensado para otros tipos de texto, otros idiomas ni otras clases, "
        "ni para decidir por sí solo sobre una persona."
    ),
    "card_labels": "Clases",
    "sizes_card": "Mensajes en los datos",
    "card_data": "Datos",
    "card_metrics": "Resultados",
    "card_metrics_intro": (
        "Sobre {messages} de prueba, que el modelo no vio al entrenarse; intervalos del {level}."
    ),
    "card_limits": "Límites",
    "card_run": "Cómo usarlo",
    "card_run_afina": "Con afina, que limpia el texto y lo divide como en el entrenamiento:",
    "card_graph": (
        "Entradas: `input_ids` y `attention_mask`, enteros de 64 bits, una fila por texto. Salidas: "
        "`logits` y `probabilities`, una columna por clase, en el orden de la tabla; `probabilities` ya "
        "está calibrada."
    ),
    "card_graph_raw": (
        "Entradas: `input_ids` y `attention_mask`, enteros de 64 bits, una fila por texto. Salidas: "
        "`logits` y `probabilities`, una columna por clase, en el orden de la tabla; `probabilities` no "
        "está calibrada."
    ),
    "card_run_plain": (
        "Solo con onnxruntime y tokenizers. Si se omiten los pasos de limpieza que indica `cleaning` en "
        "los metadatos, los resultados pueden cambiar:"
    ),
    "card_copies": "Copias reducidas",
    "card_int8": (
        "`model.int8.onnx` ({recipe}): {size} MB y {speed} veces la velocidad de `model.onnx`. Se eligió con "
        "los mensajes de validación: las mismas respuestas en el {agreement}, F1 promedio {change} puntos. "
        "En la prueba: {test_agreement} y {test_change} puntos. Sus respuestas dependen un poco de qué otros "
        "mensajes se procesan a la vez: de dos modos de agruparlos, cada cifra es la del peor."
    ),
    "card_int8_none": (
        "No hay `model.int8.onnx`: en validación, ninguna forma de redondear los pesos da las mismas "
        "respuestas en el {agreement} de los mensajes y pierde a lo más {drop} puntos del F1 promedio. "
        "Use `model.onnx`."
    ),
    "card_recipe": "Pesos",
    "card_same": "Mismas respuestas",
    "card_change": "Cambio del F1 promedio",
    "card_size": "MB",
    "card_speed": "Textos por segundo, un hilo",
    "card_rare": "F1 de las clases con menos mensajes, con `model.onnx` y con `model.int8.onnx`:",
    "card_rare_validation": "Validación",
    "card_rare_test": "Prueba",
    "card_fp16": (
        "`model.fp16.onnx`: para tarjetas gráficas, {size} MB; diferencia máxima de una probabilidad, "
        "en un procesador: {difference}."
    ),
    "card_data_hash": "SHA-256 de los datos de entrenamiento",
    "card_thresholds": (
        "Cada clase se asigna si su probabilidad alcanza el umbral, que está en los metadatos."
    ),
}

EN = {
    # The page
    "title": "Message classifier",
    "page_title": "{title}: results report",
    "subtitle": "Results report",
    "contents": "Contents",
    "skip": "Skip to content",
    "private": "This page quotes real messages. Share it only with people who may read them.",
    "made_by": "Report made by afina {version}. The same data always give the same report.",
    "none_label": "(none)",
    "other_labels": "(the others)",
    "message.one": "{n} message",
    "message.many": "{n} messages",
    "class.one": "{n} class",
    "class.many": "{n} classes",
    "between": "{low} and {high}",
    "few": "few cases",
    # Headline
    "headline_multiclass": (
        "The model gives {share} of every 100 messages the right class (between {low} and {high}, with "
        "{level} confidence), as tested on {messages} it had not seen."
    ),
    "headline_multiclass_no_interval": (
        "The model gives {share} of every 100 messages the right class, as tested on {messages} it had not "
        "seen."
    ),
    "headline_multilabel": (
        "The classes that the model assigns match the right ones by {share} points out of 100 (F1; between "
        "{low} and {high}, with {level} confidence), as tested on {messages} it had not seen."
    ),
    "headline_multilabel_no_interval": (
        "The classes that the model assigns match the right ones by {share} points out of 100 (F1), as "
        "tested on {messages} it had not seen."
    ),
    "tile_accuracy": "Right answers",
    "tile_micro_f1": "F1 over all decisions",
    "tile_macro_f1": "Average F1 of the classes",
    "tile_subset_accuracy": "Messages with all classes right",
    "tile_coverage": "Answered alone (aim: {target} right)",
    "tile_test": "Test messages",
    "tile_coverage_note": "the rest goes to a person",
    "tile_interval": "between {interval}",
    "tile_classes": "of {classes}",
    # Trust
    "trust": "Can it be trusted?",
    "trust_intro": (
        "A model is worth having if it beats simpler ones on the same test messages. The bar is the "
        "average F1 of the classes; the thin line, its {level} interval. A point is a hundredth of F1."
    ),
    "trust_better": (
        "The fine-tuned model beats the classic linear model (TF-IDF): {difference} points of average F1 "
        "more (interval from {low} to {high})."
    ),
    "trust_worse": (
        "The fine-tuned model falls short of the classic linear model (TF-IDF): {difference} points of "
        "average F1 less (interval from {low} to {high}). Use the simple model, or look into the training."
    ),
    "trust_unclear": (
        "These test messages do not show the fine-tuned model to be better or worse than the classic "
        "linear model (TF-IDF): the difference is {difference} points of average F1 (interval from {low} "
        "to {high})."
    ),
    "model": "Model",
    "difference": "Lead of the fine-tuned",
    "difference_interval": "Interval of the lead",
    "signed_interval": "{low} to {high}",
    "verdict": "The fine-tuned is…",
    "model.fine-tuned": "Fine-tuned (this model)",
    "model.tfidf": "Classic linear (TF-IDF)",
    "model.majority": "Always the most frequent class",
    "model.untrained": "Base model before fine-tuning",
    "model.probe": "Base model before fine-tuning, with a linear classifier on top",
    "verdict.better": "better",
    "verdict.worse": "worse",
    "verdict.no evidence": "not shown to differ",
    "verdict.too little data": "too little data to say",
    "verdict.the same predictions": "the same: equal answers",
    "verdict.data changed": "not comparable",
    # Data
    "data": "What it was trained on",
    "fact_task": "Task",
    "task.multiclass": "one class a message",
    "task.multilabel": "none, one or several classes a message",
    "fact_sources": "Sources",
    "fact_period": "Period of the messages",
    "period": "{first} to {last}",
    "month": "{month} {year}",
    "months": "January February March April May June July August September October November December",
    "fact_rows": "Messages used",
    "rows_used": "{clean} of {raw} read",
    "fact_split": "Division",
    "split_rows": "{train} to train, {validation} to tune decisions, {test} to test",
    "fact_classes": "Classes",
    "class_sizes": "{classes}, of {smallest} to {largest} messages",
    "fact_backbone": "Base model",
    "backbone_licence": "{backbone} (licence {licence})",
    "licence_unknown": "unknown",
    "backbone_unknown": "an unknown base model",
    "fact_training": "Training",
    "training_epochs": "epoch {best} of {epochs} was kept",
    "fact_imbalance": "Handling of uneven classes",
    "strategy.none": "none",
    "strategy.oversample": "messages of small classes are repeated",
    "strategy.undersample": "messages of large classes are left out",
    "strategy.class_weights": "errors in small classes weigh more",
    "fact_length": "Length of the messages",
    "words_of": "median {p50} words; one in twenty has more than {p95}",
    "fact_truncated": "Test messages longer than the base model reads",
    "funnel": "Messages that were not used",
    "funnel_intro": "Every message set aside has a reason. The whole list is in {file}.",
    "reason_column": "Reason",
    "rows_column": "Messages",
    "reason.empty text": "empty text",
    "reason.too few words": "too few words",
    "reason.no label": "no class",
    "reason.label dropped": "class dropped on purpose",
    "reason.several labels": "several classes where one is allowed",
    "reason.duplicate": "repeated",
    "reason.conflicting labels": "the same text with different classes",
    "reason.merged": "repeated; its classes were added to the one that stays",
    "reason.rare label": "class with too few messages, or not among those chosen",
    "reason.other label in another split": "the same text with another class in another part",
    "sizes": "Messages by class",
    "lengths": "Length of the messages, in words",
    "lengths_alt": (
        "Histogram: how many messages there are of each length in words. The most common range starts at "
        "{mode}."
    ),
    "lengths_pooled": "The last bar also holds the longer messages.",
    "words_axis": "words",
    "messages_axis": "messages",
    # Classes
    "classes": "Results by class",
    "classes_intro": (
        "From the best F1 to the worst. The bar is the F1 and the thin line its {level} interval: the "
        "longer, the less is known. Precision: of what the model put in the class, how much belonged "
        "there. Recall: of what belonged to the class, how much it found."
    ),
    "few_explained": (
        "“Few cases” marks classes with fewer than {limit} test messages: their figures say very little, "
        "whatever their interval."
    ),
    "label": "Class",
    "bar": "F1 and interval",
    "f1": "F1",
    "interval": "Interval",
    "precision": "Precision",
    "recall": "Recall",
    "support": "Test messages",
    "train_rows": "Training messages",
    "baseline_f1": "Linear model's F1",
    "threshold": "Threshold",
    "precision_recall": "How much is right by how much is found",
    "precision_recall_alt": (
        "Curves of precision and recall. Where {recall} of the messages of every class are found, average "
        "precision is {average}."
    ),
    "precision_recall_note": (
        "If less probability is asked for, more messages of a class are found, but more of those pointed "
        "out belong elsewhere. To find {recall} of each class, average precision is {average}; that of "
        "“{label}” is {lowest}. The hardest classes have their names on."
    ),
    "recall_axis": "share found (recall)",
    "precision_axis": "precision",
    "curve.macro average": "average of the classes",
    "curve.micro average": "all decisions in one pool",
    "curve_few": "{label} (few cases)",
    # Confusion
    "confusion": "What is taken for what",
    "matrix": "Confusion matrix",
    "matrix_intro": (
        "Each row is the true class; each column what the model said, by the number of the class. Right "
        "answers are on the diagonal, boxed; off it, in another colour, the errors. The shade is the share "
        "of the row."
    ),
    "matrix_multilabel": (
        "With several classes a message, each class missed is paired with each class wrongly added to the "
        "same message; “(none)” means there was nothing to pair it with."
    ),
    "matrix_cut": "The {shown} classes with the most errors are shown; the other {rest} are together.",
    "matrix_corner": "True ↓  Model →",
    "matrix_cell": "{actual} → {predicted}: {messages}",
    "pairs": "Most frequent confusions",
    "pairs_intro": (
        "From the most frequent to the least, with up to {most} each: those the model got wrong with most "
        "confidence."
    ),
    "pairs_intro_plain": "From the most frequent to the least.",
    "actual": "True class",
    "predicted": "The model said",
    "times": "Times",
    "share_of_class": "Share of the class",
    "example": "Examples",
    "no_confusions": "The model got every test message right.",
    # Confidence
    "confidence": "When to let it answer alone",
    "abstain": (
        "If the model answers only where its confidence is {threshold} or more, it answers {coverage} of "
        "the test messages and is right on {accuracy} of them (between {interval}); the others go to a "
        "person. That limit was chosen, on other messages, for {target} right."
    ),
    "abstain_all": (
        "The model may answer every message: it is right on {accuracy} of them (between {interval}), and "
        "the aim was {target}."
    ),
    "abstain_unknown": (
        "From which confidence {target} of the answers are right is not known: it is measured on the "
        "validation messages, and {rows} are few; at least {least} are needed. Until then, every message "
        "goes to a person."
    ),
    "abstain_never": (
        "No confidence is enough for {target} of the answers to be right: with that aim, every message "
        "goes to a person."
    ),
    "abstain_unreached": (
        "From a confidence of {threshold}, by other messages, {target} of the answers are right. No test "
        "message reaches it, so how many would be right is not known; those that do not reach it go to a "
        "person."
    ),
    "abstain_test": "On the test messages, the most that can be answered with {target} right is {coverage}.",
    "risk_coverage": "Right answers by how much it answers",
    "risk_coverage_alt": (
        "Curve of right answers by the share of messages answered. Answering all it is right on {full}; "
        "the horizontal line is the aim of {target}."
    ),
    "coverage_axis": "share of the messages answered",
    "accuracy_axis": "right answers",
    "answers": "right, of those answered",
    "target": "aim: {target}",
    "chosen": "limit chosen",
    "reliability": "Is the confidence it states real?",
    "reliability_alt": (
        "Reliability diagram: probability stated against the share that came true. The diagonal is perfect "
        "reliability."
    ),
    "stated_axis": "probability stated",
    "true_axis": "share that came true",
    "state.perfect": "perfect",
    "state.as trained": "before calibration",
    "state.calibrated": "calibrated",
    "state.uncalibrated": "not calibrated",
    "calibration_both": (
        "On average the confidence stated is {after} percentage points away from what comes true; before "
        "calibration it was {before} away."
    ),
    "calibration_one": (
        "On average the confidence stated is {after} percentage points away from what comes true."
    ),
    "training": "How it learned",
    "training_intro": (
        "An epoch is one pass over all training messages; the loss is the error that training brings down. "
        "Where the validation messages stop improving while the training ones go on, the model begins to "
        "memorise. The epoch with the best average F1 on validation is kept."
    ),
    "loss": "Loss by epoch",
    "macro_f1_by_epoch": "Average F1 by epoch",
    "training_alt": "{name}: training {train}, validation {validation} in the last epoch.",
    "epoch_axis": "epoch",
    "loss_axis": "loss",
    "series_train": "training",
    "series_validation": "validation",
    # Slices
    "slices": "Where it fails most",
    "slices_intro": (
        "Groups of test messages, from the worst to the best by the upper end of their interval. "
        "“Expected” is what the group should have for the classes in it; where the whole interval is "
        "below, there is more to it than the classes."
    ),
    "slices_shown": "{shown} of {all} groups; all of them are in reports/slices.csv.",
    "slice": "Group",
    "slice_by": "By",
    "bar_slice": "Score and interval",
    "score.accuracy": "Right answers",
    "score.micro_f1": "F1",
    "expected": "Expected",
    "remark": "Remark",
    "below_expected": "worse than expected",
    "column.source": "source",
    "column.length": "length",
    "column.month": "month",
    "column.truncated": "whether it fits",
    "value.(none)": "(no value)",
    "value.truncated.yes": "does not fit into the base model",
    "value.truncated.no": "fits into the base model",
    "unit.word": "word",
    "unit.words": "words",
    # Behaviour
    "behaviour": "How it takes changes to the message",
    "behaviour_high": (
        "“Above the limit” marks tests of which a larger share fails than is allowed (behave.max_changed)."
    ),
    "above_limit": "above the limit",
    "invariance": "The same message, written another way",
    "invariance_result": (
        "{copies} copies that say the same as the original message were tried. For {failures} of them "
        "({share}) the model changed its answer."
    ),
    "invariance_intro": (
        "Each row is a test: test messages are taken, something is changed that does not alter what they "
        "say, for instance the accents are left out, and the answer should stay what it was, right or "
        "wrong. The bar is the share of the copies for which it changed, with its {level} interval; a full "
        "bar is {full}."
    ),
    "invariance_none": "No message had anything to change.",
    "change": "What was changed",
    "change.upper_case": "All in capitals",
    "change.lower_case": "All in small letters",
    "change.no_accents": "Without accents: “pensión” becomes “pension”",
    "change.greeting": "With a greeting at the beginning",
    "change.farewell": "With a farewell at the end",
    "change.email": "With an e-mail address put in",
    "change.phone": "With a telephone number put in",
    "change.url": "With a web address put in",
    "change.double_spaces": "With two spaces between words",
    "change.line_breaks": "With an empty line between sentences",
    "change.typo": "With one mistyped word in each sentence",
    "change.trailing_dots": "With three dots at the end",
    "change.html_entities": "With codes of web pages: “ñ” becomes “&ntilde;”",
    "change.label_named": "With the name of its class at the beginning",
    "share_failed": "Share that fails",
    "share_failed_short": "Fail",
    "failures": "Failures",
    "of_tried": "{failures} of {rows}",
    "not_tried": "nothing to change",
    "right_to_wrong": "From right to wrong",
    "wrong_to_right": "From wrong to right",
    "directional": "The message, with a clear hint",
    "directional_intro": (
        "With the hint the model should be surer of the message's class, or at least as sure. It fails if "
        "it gives that class more than {points} percentage points less probability. A full bar is {full}."
    ),
    "cases": "Easy messages, written for the test",
    "cases_intro": (
        "A person wrote plain messages and noted the class that each belongs to. The model passes {passed} "
        "of {total}."
    ),
    "case": "Case",
    "case_expected": "Expected",
    "or": "or",
    "cases_passed": "Without a failure: {names}.",
    "and_more": "{names} and {more} more",
    "failures_heading": "Some failures",
    "failures_intro": (
        "{shown} of {total}, from all tests with failures; the whole list is in {file}. What differs "
        "between the two texts is highlighted and underlined, unless it is nearly everything."
    ),
    "failures_intro_all": (
        "All {total} there are, as in {file}. What differs between the two texts is highlighted and "
        "underlined, unless it is nearly everything."
    ),
    "message_before": "Original message",
    "message_after": "Altered copy",
    "answered": "The model said: {names}",
    "quoted": "“{name}”",
    "probability_of": "Probability of {name}",
    "watched_own": "its own class",
    "watched_top": "the most probable class",
    "from_to": "{before} → {after}",
    # Explanations
    "explanations": "Which words mattered",
    "explanations_intro": (
        "The words that mattered most are marked in each message. Those on blue with a solid line moved "
        "the model towards the class it found most probable; those on orange with a dotted line moved it "
        "away. The shade compares words of the same message. Below are the strongest, with what they add "
        "to the score of the class or take from it; where a message is cut, they may be in the part that "
        "is not shown."
    ),
    "legend_for_much": "much towards",
    "legend_for_little": "a little towards",
    "legend_against_little": "a little away",
    "legend_against_much": "much away",
    "explanations_note": (
        "This is a sum worked out on the model ({method}), not reasoning. It shows what this answer rested "
        "on; not whether it should have, nor what the answer would be with other words, and what several "
        "words say together is divided among them. It helps to notice that the model goes by something it "
        "should not, like a name or a signature. It does not prove an answer right."
    ),
    "method.integrated gradients": "integrated gradients",
    "method_steps": "{method}, {steps} steps",
    "explained_mistakes": "Mistakes",
    "explained_random": "Other messages, at random",
    "explained_right": "It said “{predicted}” ({probability}), rightly",
    "explained_wrong": "It said “{predicted}” ({probability}); it was “{actual}”",
    "explained_other": "Most probable class: “{predicted}” ({probability}); right ones: {actual}",
    "words_for": "Towards",
    "words_against": "Away",
    "no_words": "no word",
    "rough": "Approximate",
    "rough_by": "the sum is {error} away from what it should be",
    # Labels
    "labels": "Labels worth checking",
    "issues": "Messages whose class looks wrong",
    "issues_intro": (
        "Models that had not seen the message doubt the class it has in the data. These are suspicions, "
        "not certainties: a person must decide. The first {shown} of {total} are here; the whole list is "
        "in {file}."
    ),
    "issues_none": "The list of doubtful labels is empty.",
    "given": "Class in the data",
    "suggested": "Looks like",
    "split": "Part",
    "split.train": "training",
    "split.validation": "validation",
    "split.test": "test",
    "doubted_by": "Doubted by",
    "doubter.linear": "linear",
    "doubter.fine-tuned": "fine-tuned",
    "text": "Message",
    "similar": "Classes that look like one",
    "similar_intro": (
        "Pairs of classes that a linear model takes for each other and whose messages use similar words. "
        "Similarity goes from 0 to 1."
    ),
    "similar_none": "The list of classes that look like one is empty.",
    "other": "And class",
    "alike": "Similarity",
    "goes_to_other": "From the first to the second",
    "comes_back": "From the second to the first",
    "advice": "What to do",
    "advice.merge": "Hardly told apart: merge them, or check the labels of both.",
    "advice.absorbed": "“{lost}” disappears in “{taker}”: merge it, or collect more messages of it.",
    "advice.overlap": (
        "They overlap: write down what tells them apart and check the doubtful messages of both."
    ),
    # Mistakes
    "mistakes": "Most confident mistakes",
    "mistakes_intro": (
        "The test messages that the model got wrong while it was surest. Often it is the class in the data "
        "that is wrong, not the model."
    ),
    "sureness": "Confidence",
    # Limits
    "limits": "What these figures do not say",
    "limit_period": (
        "They hold for messages like those used, from {first} to {last}. When topics, forms or ways of "
        "writing change, the model may get worse unnoticed: measure again from time to time with recent "
        "messages."
    ),
    "limit_drift": (
        "They hold for messages like those used. When topics, forms or ways of writing change, the model "
        "may get worse unnoticed: measure again from time to time with recent messages."
    ),
    "limit_other_topics_multiclass": (
        "The model always chooses one of its {classes}, also for a message that belongs to none. For their "
        "class, {dropped} were set aside from the data; in real use such messages will keep coming."
    ),
    "limit_other_topics_multiclass_none": (
        "The model always chooses one of its {classes}, also for a message that belongs to none."
    ),
    "limit_other_topics_multilabel": (
        "The model knows its {classes} only. Messages on other topics may get one of them."
    ),
    "limit_labels": (
        "The test is marked by the labels in the data, and some look wrong: the list of doubtful labels "
        "has {messages} of the test. The true score may be somewhat higher or lower than the one measured."
    ),
    "limit_labels_plain": (
        "The test is marked by the labels in the data, and some may be wrong: the true score may be "
        "somewhat higher or lower than the one measured."
    ),
    "limit_small": "Classes with very few test messages, whose figures say next to nothing: {names}.",
    "limit_truncated": (
        "{share} of the test messages do not fit into the base model, which reads {tokens} pieces of words: "
        "what follows is seen by the linear part of the model at most."
    ),
    "limit_interval": (
        "The intervals say how much the figures owe to which messages fell into the test. They leave out "
        "what training again would change."
    ),
    "limit_confidence": (
        "Confidence is reliable on average, not message by message. Decisions about a person should not "
        "rest on the model alone."
    ),
    "limit_confidence_raw": (
        "Confidence is not calibrated: it may be above or below the share that is right, on average too. "
        "Decisions about a person should not rest on the model alone."
    ),
    # Use
    "use": "How to use the model",
    "use_intro": (
        "The model is one file: the cleaning of texts, the classes and the calibrated probabilities are "
        "inside. It works without an internet connection."
    ),
    "use_intro_raw": (
        "The model is one file: the cleaning of texts, the classes and the probabilities, which are not "
        "calibrated, are inside. It works without an internet connection."
    ),
    "file": "File",
    "size": "Size",
    "megabytes": "{n} MB",
    "remarks": "Check",
    "file_fp32": (
        "the same classes as the trained model on {texts} of the test; largest difference {difference}"
    ),
    "file_int8": (
        "reduced version: the same answers on {agreement} of the messages; average F1 changes by {change} "
        "points"
    ),
    "file_fp16": "version for graphics cards: largest difference {difference}",
    "file_int8_none": (
        "There is no reduced 8-bit version: none of the {variants} ways tried keeps the model's answers."
    ),
    "use_command": "In a terminal, with a CSV spreadsheet that has a column “text”:",
    "use_python": "In Python:",
    "use_sample": "Write the message here",
    "use_column": "text",
    "use_csv": "messages.csv",
    "use_out": "classified.csv",
    "use_doubtful": "to be checked",
    "use_other": "From another language: {file} explains the inputs and outputs of the model.",
    # Figures
    "figures": "All figures of the test",
    "figures_intro": (
        "On the test messages unless it says otherwise; macro: the plain average over the classes."
    ),
    "measure": "Measure",
    "value": "Value",
    "measure.macro_f1": "Macro F1",
    "measure.micro_f1": "Micro F1",
    "measure.weighted_f1": "Weighted F1",
    "measure.samples_f1": "F1 by message",
    "measure.accuracy": "Accuracy",
    "measure.subset_accuracy": "All classes right",
    "measure.macro_precision": "Macro precision",
    "measure.micro_precision": "Micro precision",
    "measure.weighted_precision": "Weighted precision",
    "measure.macro_recall": "Macro recall",
    "measure.micro_recall": "Micro recall",
    "measure.weighted_recall": "Weighted recall",
    "measure.validation": "{name}, on validation",
    "measure.ece": "Calibration error (ECE)",
    "measure.brier": "Squared error of the probabilities (Brier)",
    # Glossary
    "glossary": "Glossary",
    "term_test": "Test messages",
    "means_test": (
        "Messages set aside from the start. The model did not learn from them, so they show how it will do "
        "on new ones."
    ),
    "term_f1": "F1",
    "means_f1": (
        "A mark from 0 to 1 for a class that combines precision and recall: it is high only if both are."
    ),
    "term_macro": "Average (macro) F1",
    "means_macro": (
        "The average of the F1 of the classes. Each class counts the same, be it of 30 messages or of 3,000."
    ),
    "term_precision": "Precision and recall",
    "means_precision": (
        "Precision: how much of what the model put in a class belonged there. Recall: how much of what "
        "belonged to the class it found."
    ),
    "term_interval": "Interval",
    "means_interval": "The range the true figure is probably in. With few test messages the range is wide.",
    "term_calibration": "Calibration",
    "means_calibration": (
        "A model is well calibrated if, of the messages it gives 80% confidence, it gets about 80 in 100 "
        "right."
    ),
    "term_coverage": "Coverage",
    "means_coverage": (
        "The share of the messages that the model answers alone. Ask for more confidence, and it answers "
        "fewer and gets more right."
    ),
    "term_confusion": "Confusion matrix",
    "means_confusion": (
        "A table that counts how many messages of each class the model put in each of the classes."
    ),
    "term_invariance": "Invariance",
    "means_invariance": (
        "Giving the same answer when something changes that does not matter. A model is invariant to "
        "accents if it answers alike with and without them."
    ),
    "term_baseline": "Linear model (TF-IDF)",
    "means_baseline": (
        "A classic method that counts words. It is fast and hard to beat, and so a good yardstick."
    ),
    "term_drift": "Drift",
    "means_drift": (
        "The change of messages over time, which makes a model that does not change less accurate."
    ),
    # Model card
    "card_intro": (
        "Text classifier in one ONNX file, fine-tuned from {backbone}. It tells {classes} apart ({task})."
    ),
    "card_use": "Intended use",
    "card_use_text": (
        "Sorting messages like those it was trained on: to route, prioritise or count them, with a person "
        "who checks the doubtful ones. It is not meant for other kinds of text, other languages or other "
        "classes, nor to decide about a person by itself."
    ),
    "card_labels": "Classes",
    "sizes_card": "Messages in the data",
    "card_data": "Data",
    "card_metrics": "Results",
    "card_metrics_intro": (
        "On {messages} of the test, which the model did not see in training; {level} intervals."
    ),
    "card_limits": "Limits",
    "card_run": "How to run it",
    "card_run_afina": "With afina, which cleans and tokenises the text as in training:",
    "card_graph": (
        "Inputs: `input_ids` and `attention_mask`, 64-bit integers, one row a text. Outputs: `logits` and "
        "`probabilities`, one column a class, in the order of the table; `probabilities` is calibrated "
        "already."
    ),
    "card_graph_raw": (
        "Inputs: `input_ids` and `attention_mask`, 64-bit integers, one row a text. Outputs: `logits` and "
        "`probabilities`, one column a class, in the order of the table; `probabilities` is not calibrated."
    ),
    "card_run_plain": (
        "With onnxruntime and tokenizers alone. Results may differ where the steps that `cleaning` in the "
        "metadata names are left out:"
    ),
    "card_copies": "Reduced copies",
    "card_int8": (
        "`model.int8.onnx` ({recipe}): {size} MB and {speed} times the speed of `model.onnx`. It was chosen "
        "with the validation messages: the same answers on {agreement}, average F1 {change} points. On the "
        "test: {test_agreement} and {test_change} points. Its answers depend a little on what other messages "
        "are processed at the same time: of two ways of batching them, each figure is that of the worse."
    ),
    "card_int8_none": (
        "There is no `model.int8.onnx`: on validation, no way of rounding the weights gives the same "
        "answers on {agreement} of the messages and loses at most {drop} points of average F1. "
        "Use `model.onnx`."
    ),
    "card_recipe": "Weights",
    "card_same": "Same answers",
    "card_change": "Change of average F1",
    "card_size": "MB",
    "card_speed": "Texts per second, one thread",
    "card_rare": "F1 of the classes with the fewest messages, with `model.onnx` and with `model.int8.onnx`:",
    "card_rare_validation": "Validation",
    "card_rare_test": "Test",
    "card_fp16": (
        "`model.fp16.onnx`: for graphics cards, {size} MB; largest difference of a probability, "
        "on a processor: {difference}."
    ),
    "card_data_hash": "SHA-256 of the training data",
    "card_thresholds": (
        "A class is assigned where its probability reaches its threshold, which the metadata hold."
    ),
}

WORDS: Mapping[str, Mapping[str, str]] = {"es": ES, "en": EN}
