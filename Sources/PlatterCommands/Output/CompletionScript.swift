import BlockCore
import BlockFormats

/// The completion scripts for shells, made from the tables of options.
enum CompletionScript {
    /// The shells that have a completion script.
    enum Shell: String, CaseIterable {
        case bash
        case zsh
        case fish
    }

    /// The script that completes the command line of `program` in `shell`.
    static func text(_ shell: Shell, program: String = "platter") -> String {
        let specs = CommandList.all.map { $0.command.spec }
        switch shell {
        case .bash: return bash(specs, program)
        case .zsh: return zsh(specs, program)
        case .fish: return fish(specs, program)
        }
    }

    /// The words that an option's value can be; empty for a file or free text.
    private static func values(_ option: OptionSpec) -> [String] {
        guard let value = option.value else { return [] }
        if value.contains("|") { return value.split(separator: "|").map { String($0) } }
        if value.hasSuffix("FMT") { return StandardFormats.all.map { $0.name } }
        return value == "MODE" ? CacheMode.allCases.map(\.rawValue) : []
    }

    /// The options of a command, without those that are refused.
    private static func options(_ spec: CommandSpec) -> [OptionSpec] {
        spec.options.filter { $0.refusal == nil }
    }

    // MARK: bash

    private static func bash(_ specs: [CommandSpec], _ program: String) -> String {
        """
        # bash completion for \(program)
        _\(program)() {
            local word command='' current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
            [ "$current" = = ] && current=''
            [ "$previous" = = ] && previous=${COMP_WORDS[COMP_CWORD-2]}
            for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
                case $word in
                    \(specs.map(\.name).joined(separator: "|"))) command=$word; break ;;
                esac
            done
            case $command:$previous in
        \(specs.flatMap(bashValues).joined(separator: "\n"))
            esac
            case $command:$current in
                :*) COMPREPLY=($(compgen -W "\(topWords(specs))" -- "$current")) ;;
        \(specs.map(bashOptions).joined(separator: "\n"))
            esac
        }
        complete -o default -F _\(program) \(program)

        """
    }

    private static func topWords(_ specs: [CommandSpec]) -> String {
        (specs.map(\.name) + GlobalOptions.options.flatMap(\.spellings)).joined(separator: " ")
    }

    private static func bashValues(_ spec: CommandSpec) -> [String] {
        options(spec).filter { !values($0).isEmpty }.map { option in
            let pattern = option.spellings.map { "\(spec.name):\($0)" }.joined(separator: "|")
            let words = values(option).joined(separator: " ")
            return "        \(pattern)) COMPREPLY=($(compgen -W \"\(words)\" -- \"$current\")); return ;;"
        }
    }

    private static func bashOptions(_ spec: CommandSpec) -> String {
        let words = options(spec).flatMap(\.spellings).joined(separator: " ")
        return "        \(spec.name):-*) COMPREPLY=($(compgen -W \"\(words)\" -- \"$current\")) ;;"
    }

    // MARK: zsh

    private static func zsh(_ specs: [CommandSpec], _ program: String) -> String {
        """
        #compdef \(program)
        local curcontext=$curcontext state line
        _arguments -C '1: :->command' '*:: :->rest'
        case $state in
            command)
                local -a commands=(
        \(specs.map { "            \(quoted("\($0.name):\($0.summary)"))" }.joined(separator: "\n"))
                )
                _describe command commands ;;
            rest)
                case $line[1] in
        \(specs.map(zshCommand).joined(separator: "\n"))
                esac ;;
        esac

        """
    }

    private static func zshCommand(_ spec: CommandSpec) -> String {
        let lines = options(spec).map { option in
            let names = option.spellings
            let others = names.count > 1 ? quoted("(\(names.joined(separator: " ")))") : ""
            let list = names.count > 1 ? "{\(names.joined(separator: ","))}" : names.joined()
            return "                        \(others)\(list)\(quoted(zshMeaning(option))) \\"
        }
        let body = lines.joined(separator: "\n")
        return "            \(spec.name))\n                    _arguments -s \\\n\(body)\n"
            + "                        '*:file:_files' ;;"
    }

    private static func zshMeaning(_ option: OptionSpec) -> String {
        var text = "["
        for letter in option.help {
            if letter == "[" || letter == "]" || letter == ":" { text += "\\" }
            text.append(letter)
        }
        text += "]"
        guard let value = option.value else { return text }
        let words = values(option)
        return text + ":\(value):" + (words.isEmpty ? "_files" : "(\(words.joined(separator: " ")))")
    }

    // MARK: fish

    private static func fish(_ specs: [CommandSpec], _ program: String) -> String {
        var lines = ["# fish completion for \(program)"]
        for spec in specs {
            let head = "complete -c \(program) -n __fish_use_subcommand -f -a \(spec.name)"
            lines.append("\(head) -d \(quoted(spec.summary))")
            for option in options(spec) { lines.append(fishOption(option, spec, program)) }
        }
        return lines.joined(separator: "\n") + "\n"
    }

    private static func fishOption(_ option: OptionSpec, _ spec: CommandSpec, _ program: String) -> String {
        var line = "complete -c \(program) -n '__fish_seen_subcommand_from \(spec.name)'"
        if let short = option.short { line += " -s \(short)" }
        if let long = option.long { line += " -l \(long)" }
        let words = values(option)
        if !words.isEmpty {
            line += " -x -a \(quoted(words.joined(separator: " ")))"
        } else if option.value != nil {
            line += " -r"
        }
        return line + " -d \(quoted(option.help))"
    }

    /// The text in single quotes for bash and zsh; help texts have no backslashes, so fish reads it alike.
    private static func quoted(_ text: String) -> String {
        "'" + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
    }
}
