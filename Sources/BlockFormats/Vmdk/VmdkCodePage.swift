/// The 8-bit character sets in which old VMware products wrote descriptors (`encoding="windows-1252"`).
///
/// Sources: the mappings at unicode.org/Public/MAPPINGS (ISO8859, VENDORS/MICSFT, VENDORS/MISC). Sets with
/// more than one byte for a character (Shift_JIS, GBK, Big5, EUC-KR) are not among them: their tables are
/// large, and a statically linked program has no iconv to ask.
struct VmdkCodePage {
    /// The characters of bytes from 0x80 on.
    private let upperHalf: [Unicode.Scalar]
    /// Stands in the tables for bytes without a character.
    private static let none = Unicode.Scalar(0xFFFD as UInt16)

    /// `nil` for UTF-8 and unknown sets.
    ///
    /// - Parameter name: the name in the descriptor, in any spelling.
    init?(named name: String) {
        var key = name.lowercased().filter { $0.isLetter || $0.isNumber }
        for prefix in ["windows", "ibm"] where key.hasPrefix(prefix) {
            key = "cp" + key.dropFirst(prefix.count)
        }
        guard let table = Self.tables[Self.synonyms[key] ?? key] else { return nil }
        upperHalf = table.split(separator: " ").flatMap(Self.run)
    }

    /// Expands a run: `A0+3` is four characters from U+00A0 on.
    private static func run(_ text: Substring) -> [Unicode.Scalar] {
        let parts = text.split(separator: "+")
        guard let first = parts.first.flatMap({ UInt32($0, radix: 16) }) else { return [] }
        let more = parts.count > 1 ? UInt32(parts[1]) ?? 0 : 0
        return (first...first + more).compactMap(Unicode.Scalar.init)
    }

    /// The text of `bytes`; `nil` when one of them has no character in this set.
    func decode(_ bytes: [UInt8]) -> String? {
        var text = String.UnicodeScalarView()
        for byte in bytes {
            let scalar = byte < 0x80 ? Unicode.Scalar(byte) : upperHalf[Int(byte) - 0x80]
            guard scalar != Self.none else { return nil }
            text.append(scalar)
        }
        return String(text)
    }

    private static let synonyms = ["latin1": "iso88591", "latin2": "iso88592", "latin9": "iso885915"]

    private static let tables = [
        "cp1250": """
        20AC 81 201A 83 201E 2026 2020+1 88 2030 160 2039 15A 164 17D 179 90 2018+1 201C+1 \
        2022 2013+1 98 2122 161 203A 15B 165 17E 17A A0 2C7 2D8 141 A4 104 A6+3 15E AB+3 17B \
        B0+1 2DB 142 B4+4 105 15F BB 13D 2DD 13E 17C 154 C1+1 102 C4 139 106 C7 10C C9 118 \
        CB 11A CD+1 10E 110 143 147 D3+1 150 D6+1 158 16E DA 170 DC+1 162 DF 155 E1+1 103 E4 \
        13A 107 E7 10D E9 119 EB 11B ED+1 10F 111 144 148 F3+1 151 F6+1 159 16F FA 171 FC+1 \
        163 2D9
        """,
        "cp1251": """
        402+1 201A 453 201E 2026 2020+1 20AC 2030 409 2039 40A 40C 40B 40F 452 2018+1 201C+1 \
        2022 2013+1 98 2122 459 203A 45A 45C 45B 45F A0 40E 45E 408 A4 490 A6+1 401 A9 404 \
        AB+3 407 B0+1 406 456 491 B5+2 451 2116 454 BB 458 405 455 457 410+63
        """,
        "cp1252": """
        20AC 81 201A 192 201E 2026 2020+1 2C6 2030 160 2039 152 8D 17D 8F+1 2018+1 201C+1 \
        2022 2013+1 2DC 2122 161 203A 153 9D 17E 178 A0+95
        """,
        "cp1253": """
        20AC 81 201A 192 201E 2026 2020+1 88 2030 8A 2039 8C+4 2018+1 201C+1 2022 2013+1 98 \
        2122 9A 203A 9C+4 385+1 A3+6 FFFD AB+3 2015 B0+3 384 B5+2 388+2 BB 38C BD 38E+19 \
        FFFD 3A3+43 FFFD
        """,
        "cp1254": """
        20AC 81 201A 192 201E 2026 2020+1 2C6 2030 160 2039 152 8D+3 2018+1 201C+1 2022 \
        2013+1 2DC 2122 161 203A 153 9D+1 178 A0+47 11E D1+11 130 15E DF+16 11F F1+11 131 \
        15F FF
        """,
        "cp1255": """
        20AC 81 201A 192 201E 2026 2020+1 2C6 2030 8A 2039 8C+4 2018+1 201C+1 2022 2013+1 \
        2DC 2122 9A 203A 9C+7 20AA A5+4 D7 AB+14 F7 BB+4 5B0+9 FFFD 5BB+8 5F0+4 FFFD FFFD \
        FFFD FFFD FFFD FFFD FFFD 5D0+26 FFFD FFFD 200E+1 FFFD
        """,
        "cp1256": """
        20AC 67E 201A 192 201E 2026 2020+1 2C6 2030 679 2039 152 686 698 688 6AF 2018+1 \
        201C+1 2022 2013+1 6A9 2122 691 203A 153 200C+1 6BA A0 60C A2+7 6BE AB+14 61B BB+3 \
        61F 6C1 621+21 D7 637+3 640+3 E0 644 E2 645+3 E7+4 649+1 EE+1 64B+3 F4 64F+1 F7 651 \
        F9 652 FB+1 200E+1 6D2
        """,
        "cp1257": """
        20AC 81 201A 83 201E 2026 2020+1 88 2030 8A 2039 8C A8 2C7 B8 90 2018+1 201C+1 2022 \
        2013+1 98 2122 9A 203A 9C AF 2DB 9F+1 FFFD A2+2 FFFD A6+1 D8 A9 156 AB+3 C6 B0+7 F8 \
        B9 157 BB+3 E6 104 12E 100 106 C4+1 118 112 10C C9 179 116 122 136 12A 13B 160 143 \
        145 D3 14C D5+2 172 141 15A 16A DC 17B 17D DF 105 12F 101 107 E4+1 119 113 10D E9 \
        17A 117 123 137 12B 13C 161 144 146 F3 14D F5+2 173 142 15B 16B FC 17C 17E 2D9
        """,
        "cp1258": """
        20AC 81 201A 192 201E 2026 2020+1 2C6 2030 8A 2039 152 8D+3 2018+1 201C+1 2022 \
        2013+1 2DC 2122 9A 203A 153 9D+1 178 A0+34 102 C4+7 300 CD+2 110 D1 309 D3+1 1A0 \
        D6+6 1AF 303 DF+3 103 E4+7 301 ED+2 111 F1 323 F3+1 1A1 F6+6 1B0 20AB FF
        """,
        "cp874": """
        20AC 81+3 2026 86+10 2018+1 201C+1 2022 2013+1 98+8 E01+57 FFFD FFFD FFFD FFFD \
        E3F+28 FFFD FFFD FFFD FFFD
        """,
        "iso88591": """
        80+127
        """,
        "iso88592": """
        80+32 104 2D8 141 A4 13D 15A A7+1 160 15E 164 179 AD 17D 17B B0 105 2DB 142 B4 13E \
        15B 2C7 B8 161 15F 165 17A 2DD 17E 17C 154 C1+1 102 C4 139 106 C7 10C C9 118 CB 11A \
        CD+1 10E 110 143 147 D3+1 150 D6+1 158 16E DA 170 DC+1 162 DF 155 E1+1 103 E4 13A \
        107 E7 10D E9 119 EB 11B ED+1 10F 111 144 148 F3+1 151 F6+1 159 16F FA 171 FC+1 163 \
        2D9
        """,
        "iso88595": """
        80+32 401+11 AD 40E+65 2116 451+11 A7 45E+1
        """,
        "iso88597": """
        80+32 2018+1 A3 20AC 20AF A6+3 37A AB+2 FFFD 2015 B0+3 384+2 B7 388+2 BB 38C BD \
        38E+19 FFFD 3A3+43 FFFD
        """,
        "iso88599": """
        80+79 11E D1+11 130 15E DF+16 11F F1+11 131 15F FF
        """,
        "iso885913": """
        80+32 201D A2+2 201E A6+1 D8 A9 156 AB+3 C6 B0+3 201C B5+2 F8 B9 157 BB+3 E6 104 12E \
        100 106 C4+1 118 112 10C C9 179 116 122 136 12A 13B 160 143 145 D3 14C D5+2 172 141 \
        15A 16A DC 17B 17D DF 105 12F 101 107 E4+1 119 113 10D E9 17A 117 123 137 12B 13C \
        161 144 146 F3 14D F5+2 173 142 15B 16B FC 17C 17E 2019
        """,
        "iso885915": """
        80+35 20AC A5 160 A7 161 A9+10 17D B5+2 17E B9+2 152+1 178 BF+64
        """,
        "cp437": """
        C7 FC E9 E2 E4 E0 E5 E7 EA+1 E8 EF EE EC C4+1 C9 E6 C6 F4 F6 F2 FB F9 FF D6 DC A2+1 \
        A5 20A7 192 E1 ED F3 FA F1 D1 AA BA BF 2310 AC BD BC A1 AB BB 2591+2 2502 2524 \
        2561+1 2556 2555 2563 2551 2557 255D 255C 255B 2510 2514 2534 252C 251C 2500 253C \
        255E+1 255A 2554 2569 2566 2560 2550 256C 2567+1 2564+1 2559 2558 2552+1 256B 256A \
        2518 250C 2588 2584 258C 2590 2580 3B1 DF 393 3C0 3A3 3C3 B5 3C4 3A6 398 3A9 3B4 \
        221E 3C6 3B5 2229 2261 B1 2265 2264 2320+1 F7 2248 B0 2219 B7 221A 207F B2 25A0 A0
        """,
        "cp850": """
        C7 FC E9 E2 E4 E0 E5 E7 EA+1 E8 EF EE EC C4+1 C9 E6 C6 F4 F6 F2 FB F9 FF D6 DC F8 A3 \
        D8 D7 192 E1 ED F3 FA F1 D1 AA BA BF AE AC BD BC A1 AB BB 2591+2 2502 2524 C1+1 C0 \
        A9 2563 2551 2557 255D A2 A5 2510 2514 2534 252C 251C 2500 253C E3 C3 255A 2554 2569 \
        2566 2560 2550 256C A4 F0 D0 CA+1 C8 131 CD+2 2518 250C 2588 2584 A6 CC 2580 D3 DF \
        D4 D2 F5 D5 B5 FE DE DA+1 D9 FD DD AF B4 AD B1 2017 BE B6 A7 F7 B8 B0 A8 B7 B9 B3 B2 \
        25A0 A0
        """,
        "cp852": """
        C7 FC E9 E2 E4 16F 107 E7 142 EB 150+1 EE 179 C4 106 C9 139+1 F4 F6 13D+1 15A+1 D6 \
        DC 164+1 141 D7 10D E1 ED F3 FA 104+1 17D+1 118+1 AC 17A 10C 15F AB BB 2591+2 2502 \
        2524 C1+1 11A 15E 2563 2551 2557 255D 17B+1 2510 2514 2534 252C 251C 2500 253C 102+1 \
        255A 2554 2569 2566 2560 2550 256C A4 111 110 10E CB 10F 147 CD+1 11B 2518 250C 2588 \
        2584 162 16E 2580 D3 DF D4 143+1 148 160+1 154 DA 155 170 FD DD 163 B4 AD 2DD 2DB \
        2C7 2D8 A7 F7 B8 B0 A8 2D9 171 158+1 25A0 A0
        """,
        "cp866": """
        410+47 2591+2 2502 2524 2561+1 2556 2555 2563 2551 2557 255D 255C 255B 2510 2514 \
        2534 252C 251C 2500 253C 255E+1 255A 2554 2569 2566 2560 2550 256C 2567+1 2564+1 \
        2559 2558 2552+1 256B 256A 2518 250C 2588 2584 258C 2590 2580 440+15 401 451 404 454 \
        407 457 40E 45E B0 2219 B7 221A 2116 A4 25A0 A0
        """,
        "koi8r": """
        2500 2502 250C 2510 2514 2518 251C 2524 252C 2534 253C 2580 2584 2588 258C 2590+3 \
        2320 25A0 2219+1 2248 2264+1 A0 2321 B0 B2 B7 F7 2550+2 451 2553+14 401 2562+10 A9 \
        44E 430+1 446 434+1 444 433 445 438+7 44F 440+3 436 432 44C 44B 437 448 44D 449 447 \
        44A 42E 410+1 426 414+1 424 413 425 418+7 42F 420+3 416 412 42C 42B 417 428 42D 429 \
        427 42A
        """,
        "koi8u": """
        2500 2502 250C 2510 2514 2518 251C 2524 252C 2534 253C 2580 2584 2588 258C 2590+3 \
        2320 25A0 2219+1 2248 2264+1 A0 2321 B0 B2 B7 F7 2550+2 451 454 2554 456+1 2557+4 \
        491 255D+4 401 404 2563 406+1 2566+4 490 256C A9 44E 430+1 446 434+1 444 433 445 \
        438+7 44F 440+3 436 432 44C 44B 437 448 44D 449 447 44A 42E 410+1 426 414+1 424 413 \
        425 418+7 42F 420+3 416 412 42C 42B 417 428 42D 429 427 42A
        """,
    ]
}
